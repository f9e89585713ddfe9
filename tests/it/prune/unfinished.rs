//! Runs that are not finished: whose they are decides how long they stay.

use super::*;
use recoup::{format::run::RunWriter, ops::backup, repository::layout};

/// A second host's first backup gets on for so many operations, and stands still.
fn unfinished(history: &History) -> (History, BTreeSet<String>) {
    let before: BTreeSet<String> = history.site.objects(0).into_keys().collect();
    let committed = history.site.committed(0).len();
    let stopped = |last: u64| {
        let fork = history.fork("unfinished");
        let second = Machine::new(1, "second");
        let process = Process::new(&fork.site, &second, &fork.database);
        process.operations.stop_after(last);
        let _ = live(process.backup(true));
        let left: BTreeSet<String> = fork.site.objects(0).into_keys().filter(|key| !before.contains(key)).collect();
        let has_packs = left.iter().any(|key| key.contains("/packs/") && key.ends_with(".age"));
        let is_committed = (0..3).any(|store| fork.site.committed(store).len() > committed);
        (has_packs && !is_committed).then_some((fork, left))
    };
    (10..200).find_map(stopped).unwrap()
}

fn left_of(history: &History, left: &BTreeSet<String>) -> usize {
    left.iter().filter(|key| history.site.get(0, key).is_some()).count()
}

#[test]
fn the_first_backup_of_a_new_host_is_not_taken_for_abandoned_while_another_goes_on() {
    let (mut history, left) = unfinished(&History::new(3));
    for _ in 0..3 {
        history.prune(99);
        history.take(true);
        assert_eq!(left_of(&history, &left), left.len());
    }
    // Once the new host has committed something, what it had begun before is nobody's.
    let second = Machine::new(1, "later");
    second.clock.advance_seconds(86_400);
    live(Process::new(&history.site, &second, &history.database).backup(true)).unwrap();
    history.take(true);
    for _ in 0..2 {
        history.prune(99);
    }
    assert_eq!(left_of(&history, &left), 0);
    history.restore_all(&history.ids());
    history.verify_is(Status::Ok);
}

/// What older versions wrote, and what somebody else put there.
#[test]
fn a_run_without_a_note_goes_as_it_always_did_and_one_with_another_note_no_earlier() {
    for (name, note, expected) in
        [("none", None, 0), ("of nobody", Some(b"{}".to_vec()), 1), ("of the host that goes on", Some(Vec::new()), 0)]
    {
        let (mut history, left) = unfinished(&History::new(3));
        let key = left.iter().find(|key| key.ends_with(layout::WRITER)).unwrap().clone();
        let own = history.process().host.key.fingerprint().to_string();
        for store in 0..3 {
            let Some(bytes) = history.site.get(store, &key) else { continue };
            history.site.remove(store, &key);
            let written = note.clone().map(|bytes_of| match bytes_of.is_empty() {
                true => RunWriter { writer: own.clone(), ..RunWriter::parse(&bytes).unwrap() }.to_bytes(),
                false => bytes_of,
            });
            if let Some(written) = written {
                history.site.put(store, &key, written);
            }
        }
        for _ in 0..3 {
            history.prune(99);
            history.take(true);
        }
        assert_eq!(left_of(&history, &left).min(1), expected, "{name}");
    }
}

/// No other object of a run is on a store before the note that says whose it is.
#[test]
fn the_note_is_first() {
    let history = History::new(1);
    let before: BTreeSet<String> = history.site.objects(0).into_keys().collect();
    let mut seen = 0;
    for last in 1..120 {
        let fork = history.fork("first");
        let process = fork.process();
        process.operations.stop_after(last);
        let _ = live(backup::backup(&process.host, &process.protected, true, &recoup::ops::progress::NoProgress));
        for store in 0..3 {
            let new: BTreeSet<String> =
                fork.site.objects(store).into_keys().filter(|key| !before.contains(key)).collect();
            seen += usize::from(!new.is_empty());
            assert!(new.is_empty() || new.iter().any(|key| key.ends_with(layout::WRITER)), "{last}: {new:?}");
        }
    }
    assert!(seen > 0);
}
