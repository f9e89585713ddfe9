//! What nobody trusted has put among the evidence.

use super::*;
use recoup::{
    core::evidence::{Action, Draft, Verdict},
    ops::evidence::{self, Lost, Recorded, Recorder},
};
use std::fs;

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

/// Unsigned objects far beyond the end of a chain: on which stores of how many, and whether they may hide a hold.
const FAR_AHEAD: &[(usize, &[usize], u64, bool)] = &[
    (3, &[0], 9_999, false),
    (3, &[0, 1], 9_999, true),
    (3, &[0, 1, 2], 9_999, true),
    (2, &[1], 9_999, false),
    (1, &[0], 9_999, true),
    // It would follow.
    (3, &[0], 2, true),
];

/// Whoever can write to a store can put a genuine record under another number.
#[test]
fn a_copied_record_far_ahead_stops_no_prune() {
    let history = History::new(4);
    let process = history.process().keeping(2);
    let Recorded { writer, head } = process.record(Action::Backup, None);
    for ending in ["json", "sig"] {
        let name = |number: u64| format!("evidence/{writer}/{number:010}.{ending}");
        let bytes = history.site.get(2, &name(head.number)).unwrap();
        history.site.put(2, &name(9_999_999_999), bytes.to_vec());
    }
    assert_eq!(live(process.prune(confirmed())).map(|pruned| pruned.exit_code).unwrap(), Code::Done);
    assert_eq!(live(history.process().evidence()).status, Status::Critical);
}

/// Nor does a chain that never was, of genuine records, unless so many stores show it that they alone would be believed.
#[test]
fn copied_records_make_no_chain() {
    let history = History::new(4);
    let process = history.process().keeping(2);
    let Recorded { writer, head } = process.record(Action::Backup, None);
    let of_chain = |chain: &str, number: u64, ending: &str| format!("evidence/{chain}/{number:010}.{ending}");
    let places = || (1..=head.number).flat_map(|number| ["json", "sig"].map(|ending| (number, ending)));
    let prune = || live(process.prune(confirmed()));
    let plant = |chain: &str, store: usize| {
        for (number, ending) in places() {
            let bytes = history.site.get(0, &of_chain(&writer.to_string(), number, ending)).unwrap();
            history.site.put(store, &of_chain(chain, number, ending), bytes.to_vec());
        }
    };
    plant("kkkkkkkkkkkkkkkk", 2);
    assert_eq!(prune().map(|pruned| pruned.exit_code), Ok(Code::Done));
    let verified = live(history.process().evidence());
    assert_eq!(verified.status, Status::Critical);
    assert!(verified.findings.iter().any(|of| of.message.contains(&format!("record 1 of writer {writer}"))));
    // What more than half of the stores show stops it, and the next step leads out.
    for store in 0..3 {
        plant("kkkkkkkkkkkkkkkk", store);
    }
    let mut removed = 0;
    while let Err(refused) = prune() {
        assert_eq!(refused.code, Code::Refused, "{refused}");
        let next_step = refused.next_step.unwrap();
        let is_named = |(store, number): &(usize, u64)| {
            let name = of_chain("kkkkkkkkkkkkkkkk", *number, "json");
            next_step.contains(&format!("{name}, .sig and .age on store {} are removed", STORES[*store]))
        };
        let all = (0..3).flat_map(|store| (1..=head.number).map(move |number| (store, number)));
        let (store, number) = all.clone().find(is_named).unwrap_or_else(|| panic!("{next_step}"));
        ["json", "sig"]
            .iter()
            .for_each(|ending| history.site.remove(store, &of_chain("kkkkkkkkkkkkkkkk", number, ending)));
        removed += 1;
        assert!(removed <= all.count(), "{next_step}");
    }
    assert!(removed > 0);
}

#[test]
fn junk_far_ahead_stops_prune_only_where_it_may_hide_something() {
    for (stores, planted, number, may_hide) in FAR_AHEAD {
        let mut history = History::new(0);
        history.site = Site::new(*stores);
        for _ in 0..4 {
            history.take(true);
        }
        let process = history.process().keeping(2);
        let recorder = Recorder::with_policies(&process.host, BTreeMap::new());
        // Its configuration is the first of a chain.
        let draft = Draft::new(Action::Backup, Verdict::Passed, process.host.world.now());
        let Recorded { writer, head } = recorder.record(draft).unwrap();
        live(recorder.ship());
        let number = if *number == 2 { head.number + 1 } else { *number };
        let name = format!("evidence/{writer}/{number:010}.json");
        planted.iter().for_each(|store| history.site.put(*store, &name, b"{}".to_vec()));
        let what = format!("{planted:?} of {stores}");
        let prune = || live(process.prune(confirmed()));
        if *may_hide {
            let refused = prune().unwrap_err();
            assert_eq!(refused.code, Code::Refused, "{what}");
            let next_step = refused.next_step.unwrap();
            assert!(next_step.contains(&format!("{name} on store {}", STORES[planted[0]])), "{what}: {next_step}");
            // A file's name is no record that was lost.
            let lost = Lost { writer, first: number, last: number };
            let host = &process.host;
            let refused = live(evidence::acknowledge(&host.repository, &recorder, &host.world, lost)).unwrap_err();
            assert!(refused.next_step.unwrap().contains("remove it there"), "{what}");
            planted.iter().for_each(|store| history.site.remove(*store, &name));
        }
        assert_eq!(
            prune().map(|pruned| pruned.exit_code).map_err(|refused| refused.to_string()),
            Ok(Code::Done),
            "{what}"
        );
        // It keeps nobody from keeping what was read.
        let view = live(evidence::read_control(&process.host.repository, Some(&process.host.state_dir)));
        assert_eq!(view.refused.is_empty(), *may_hide, "{what}: {:?}", view.refused);
        let kept = fs::read_to_string(process.host.state_dir.join("evidence/control.json")).unwrap();
        assert!(kept.contains(&writer.to_string()), "{what}: {kept}");
    }
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
