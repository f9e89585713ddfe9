//! What nobody trusted has put among the evidence.

use super::*;
use recoup::{
    core::evidence::{Action, Draft, Verdict},
    ops::evidence::Recorder,
};

const PLACE: &str = "evidence/jjjjjjjjjjjjjjjj/0000000001";

#[test]
fn a_record_that_is_not_accepted_may_hide_a_hold() {
    let history = History::new(4);
    let own = history.process().host.key.clone();
    let stranger = HostKey::generate([9; 32], "stranger");
    let plant = |signature: String| {
        history.site.put(0, &format!("{PLACE}.json"), b"{}".to_vec());
        history.site.put(0, &format!("{PLACE}.sig"), signature.into_bytes());
    };
    let prune = || live(history.process().keeping(2).prune(confirmed()));
    plant(stranger.sign(signature::EVIDENCE, b"{}"));
    let refused = prune().unwrap_err();
    assert_eq!(refused.code, Code::Refused);
    assert!(refused.next_step.unwrap().contains("removed by hand"));
    assert_eq!(live(history.process().evidence()).status, Status::Critical);
    // What a trusted key has signed may be a hold, whatever became of it.
    plant(own.sign(signature::EVIDENCE, b"a hold"));
    assert_eq!(prune().unwrap_err().code, Code::Refused);
}

#[test]
fn an_object_in_the_way_begins_no_chain_for_every_command() {
    let history = History::new(1);
    let process = history.process();
    let recorder = Recorder::with_policies(&process.host, BTreeMap::new());
    let record = || {
        let draft = Draft::new(Action::Backup, Verdict::Passed, process.host.world.now());
        (recorder.record(draft).unwrap(), live(recorder.ship()))
    };
    let (first, shipped) = record();
    assert!(shipped.behind.is_empty(), "{}", shipped.reasons());
    let next = first.head.number + 1;
    history.site.put(0, &format!("evidence/{}/{next:010}.age", first.writer), b"junk".to_vec());
    for number in next..next + 3 {
        let (recorded, shipped) = record();
        assert_eq!((recorded.writer, recorded.head.number), (first.writer, number));
        assert!(!shipped.forked && shipped.behind.len() == 1, "{}", shipped.reasons());
        assert_eq!(shipped.holds(number), 2);
    }
}
