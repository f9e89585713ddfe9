//! A prune dies after operation N on its stores, for every N. Everything kept restores byte for byte, `verify` tells the
//! truth, and the next runs finish what was begun.

use super::{History, confirmed, leftovers};
use crate::simulation::{audit::Audit, live};
use recoup::{
    core::{
        failure::Code,
        id::SnapshotId,
        result::{Problem, Status},
    },
    ops::prune::PruneRequest,
};

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The run that publishes a plan.
    Plan,
    /// The run that executes it.
    Execute,
    /// Both in one.
    Now,
}

fn die_everywhere(act: Act, within: bool) {
    let mut prepared = History::new(4);
    prepared.take(true);
    let ids: Vec<SnapshotId> = prepared.taken.keys().copied().collect();
    let kept = &ids[3..];
    if act == Act::Execute {
        live(prepared.process().keeping(2).prune(confirmed())).unwrap();
    }
    let mut seen = None;
    for last in 0..5000 {
        let mut crashed = prepared.fork("crashed");
        let process = crashed.process().keeping(2);
        if within {
            process.operations.stop_within(last + 1)
        } else {
            process.operations.stop_after(last)
        }
        let _ = live(process.prune(PruneRequest { now: act == Act::Now, ..confirmed() }));
        let stopped = process.operations.stopped();
        let context = format!("{act:?}, dead after {last}, {within}");
        let left: Vec<Vec<String>> = (0..3).map(|store| crashed.site.objects(store).into_keys().collect()).collect();
        if !stopped || seen.as_ref() != Some(&left) {
            recover(&mut crashed, kept, &context);
        }
        seen = Some(left);
        if !stopped {
            assert!(last > 10, "{context}");
            return;
        }
    }
    panic!("it never ends");
}

fn recover(crashed: &mut History, kept: &[SnapshotId], context: &str) {
    let mut audit = Audit::default();
    assert_eq!(audit.faults(&crashed.site), Vec::<String>::new(), "{context}");
    let verified = live(crashed.process().verify()).unwrap();
    for finding in &verified.findings {
        assert_eq!(finding.problem, Problem::Behind, "{context}: {finding:?}");
        assert!(finding.object.as_ref().is_some_and(|object| object.contains("/prunes/")), "{context}: {finding:?}");
    }
    crashed.restore_all(kept);
    // A backup at this moment is as good as any other.
    let next = live(crashed.process().backup(false)).unwrap();
    assert!(next.durable, "{context}: {:?}", next.behind);
    crashed.process().expect_restored(next.head.id, &crashed.database.files);
    for _ in 0..2 {
        let pruned = live(crashed.process().keeping(3).prune(confirmed())).unwrap();
        assert_eq!(pruned.exit_code, Code::Done, "{context}: {}", pruned.message);
    }
    assert_eq!(leftovers(&crashed.site), Vec::<String>::new(), "{context}");
    assert_eq!(audit.faults(&crashed.site), Vec::<String>::new(), "{context}");
    let committed: Vec<Vec<SnapshotId>> =
        (0..3).map(|store| crashed.site.committed(store).into_iter().collect()).collect();
    let expected: Vec<SnapshotId> = kept.iter().copied().chain([next.head.id]).collect();
    assert_eq!(committed, [expected.clone(), expected.clone(), expected], "{context}");
    let copied = live(crashed.process().copy()).unwrap();
    assert_eq!(copied.status, Status::Ok, "{context}: {:?}", copied.findings);
    let verified = live(crashed.process().verify()).unwrap();
    assert_eq!((verified.status, &verified.findings[..]), (Status::Ok, &[][..]), "{context}");
    crashed.restore_all(kept);
    crashed.process().expect_restored(next.head.id, &crashed.database.files);
}

macro_rules! dies {
    ($($name:ident: $act:ident $within:literal;)*) => {
        $(#[test]
        fn $name() {
            die_everywhere(Act::$act, $within);
        })*
    };
}

dies! {
    planning_after: Plan false;
    planning_within: Plan true;
    executing_after: Execute false;
    executing_within: Execute true;
    at_once_after: Now false;
    at_once_within: Now true;
}
