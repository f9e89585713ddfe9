//! The process that pushes dies after operation N on its stores, for every N.

use super::server::{SYSTEM, Server};
use recoup::{
    core::result::Status,
    stores::fault::{Faults, Operations},
};

/// One push of a batch, in a process that dies at its operation `last`; says whether it lived.
fn dies_at(last: u64, hears_of_it: bool) -> bool {
    let mut server = Server::new(SYSTEM);
    let before = server.segment(1);
    server.push(&before).unwrap();
    let names: Vec<String> = (2..=4).map(|number| server.segment(number)).collect();
    names.iter().for_each(|name| server.ready(name));
    let operations = Operations::new();
    for store in ["a", "b", "c"] {
        server.wrap(store, &Faults::new(store, &operations));
    }
    match hears_of_it {
        true => operations.stop_after(last),
        false => operations.stop_within(last),
    }
    let pushed = server.push(&names[0]);
    let died = operations.stopped();
    operations.resume();
    // What was acknowledged is there, whatever came after.
    server.assert_fetched(&before);
    if let Ok(pushed) = &pushed {
        pushed.files.iter().for_each(|file| server.assert_fetched(&file.to_string()));
    }
    // The next process has nothing but the stores and the state, and then not even that.
    for name in &names {
        server.push(name).unwrap_or_else(|failure| panic!("{last}: {failure}"));
        server.assert_fetched(name);
    }
    server.lose_state();
    for name in &names {
        assert!(server.push(name).unwrap().files.is_empty(), "{last}: {name} is durable");
    }
    assert!(recoup::core::log::forks(&server.records()).is_empty());
    let copied = server.repository.copy();
    assert_eq!((copied.status, copied.findings.len()), (Status::Ok, 0), "{last}: {copied:?}");
    assert_eq!(server.repository.verify().status, Status::Ok, "{last}");
    !died
}

#[test]
fn a_push_that_dies_anywhere_loses_nothing() {
    for hears_of_it in [true, false] {
        let mut last = 0;
        while !dies_at(last, hears_of_it) {
            last += 1;
            assert!(last < 200, "it never gets to its end");
        }
        assert!(last > 10, "{last}");
    }
}
