//! A store that refuses to delete: planned state, told and tried again.

use super::{History, confirmed, leftovers};
use crate::simulation::{
    asking::{Verb, make_ask},
    live,
};
use futures_util::FutureExt;
use object_store::{Error, Result, path::Path};
use recoup::core::{failure::Code, result::Status};
use std::{future::ready, sync::Arc};

/// An object lock.
fn locked(verb: Verb, location: &Path) -> Result<()> {
    match verb {
        Verb::Get | Verb::Put => Ok(()),
        Verb::Delete => {
            let path = location.to_string();
            Err(Error::PermissionDenied { path, source: "the object is locked until 2031".into() })
        }
    }
}

#[test]
fn a_denied_delete_is_told_and_tried_again() {
    let history = History::new(5);
    let ids = history.ids();
    history.prune(2);
    let mut process = history.process().keeping(2);
    let lock = |verb, location: Path| ready(locked(verb, &location)).boxed();
    make_ask(&mut process.host.repository.stores[1], Arc::new(lock));
    for _ in 0..2 {
        let pruned = live(process.prune(confirmed())).unwrap();
        assert_eq!(pruned.exit_code, Code::Warning, "{}", pruned.message);
        let kept: Vec<&str> =
            pruned.stores.iter().filter(|store| store.kept_objects > 0).map(|store| store.store.as_str()).collect();
        assert_eq!(kept, ["b"], "{}", pruned.message);
        assert!(pruned.message.contains("the object is locked until 2031"), "{}", pruned.message);
        assert!(leftovers(&history.site).len() > 5);
        history.verify_is(Status::Ok);
        history.restore_all(&ids[3..]);
        assert_eq!(history.listed(), ids[3..]);
    }
    // Once the lock has passed, nothing more is needed than the next run.
    assert_eq!(history.prune(2).exit_code, Code::Done);
    assert_eq!(leftovers(&history.site), Vec::<String>::new());
}
