//! What was found, as metrics in Prometheus' text format.

use crate::core::result::{Checked, CheckedSource, CheckedStore, Severity, Status, StoreState};
use std::fmt::Write;

/// All metrics. Where nobody knows a value, its line is left out.
pub(super) fn text(checked: &Checked) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, samples: Vec<(String, f64)>| {
        // Writing to a text cannot fail.
        let _ = write!(text, "# HELP recoup_{name} {help}\n# TYPE recoup_{name} gauge\n");
        for (labels, value) in samples {
            let _ = writeln!(text, "recoup_{name}{labels} {value}");
        }
    };
    let status = match checked.status {
        Status::Ok => 0.0,
        Status::Warning => 1.0,
        Status::Critical => 2.0,
        Status::Unknown => 3.0,
    };
    gauge(
        "check_status",
        "Verdict of recoup check: 0 ok, 1 warning, 2 critical, 3 unknown.",
        vec![(String::new(), status)],
    );
    let at = checked.checked_at.as_datetime().timestamp() as f64;
    gauge("check_timestamp_seconds", "When recoup check ran, in seconds since 1970.", vec![(String::new(), at)]);
    let severities = [Severity::Note, Severity::Warning, Severity::Critical].map(|severity| {
        let number = checked.findings.iter().filter(|finding| finding.severity == severity).count();
        (labels(&[("severity", severity.word())]), number as f64)
    });
    gauge("findings", "Findings of recoup check.", severities.into());
    let mut ids: Vec<&str> = checked.findings.iter().map(|finding| finding.id.word()).collect();
    ids.sort_unstable();
    let mut by_id: Vec<(String, f64)> = Vec::new();
    for id in ids {
        let labels = labels(&[("id", id)]);
        match by_id.last_mut() {
            Some((last, number)) if *last == labels => *number += 1.0,
            _ => by_id.push((labels, 1.0)),
        }
    }
    gauge("findings_by_id", "Findings of recoup check, by their fixed id.", by_id);
    sources(checked, &mut gauge);
    stores(checked, &mut gauge);
    text
}

type Gauge<'a> = dyn FnMut(&str, &str, Vec<(String, f64)>) + 'a;

fn sources(checked: &Checked, gauge: &mut Gauge<'_>) {
    let mut each = |name: &str, help: &str, value: &dyn Fn(&CheckedSource) -> Option<f64>| {
        let sample = |source: &CheckedSource| Some((labels(&[("source", source.source.as_str())]), value(source)?));
        gauge(name, help, checked.sources.iter().filter_map(sample).collect());
    };
    let whole = |value: u64| value as f64;
    let since = |at: Option<crate::core::time::Timestamp>| at.map(|at| checked.checked_at.seconds_since(at).max(0.0));
    let moment = |at: crate::core::time::Timestamp| at.as_datetime().timestamp_millis() as f64 / 1000.0;
    each("exposure_seconds", "What would be lost now.", &|source| source.exposure_seconds.map(whole));
    each("rpo_seconds", "What the policy permits to be lost.", &|source| source.rpo_seconds.map(whole));
    each("newest_snapshot_seconds", "When the read for the newest snapshot began, in seconds since 1970.", &|source| {
        source.newest_at.map(moment)
    });
    each("newest_durable_snapshot_seconds", "The same for the newest durable snapshot.", &|source| {
        source.durable_at.map(moment)
    });
    each("durable_until_seconds", "Until when what was committed is durable, in seconds since 1970.", &|source| {
        source.durable_until.map(|until| moment(crate::core::time::Timestamp::new(until.as_datetime())))
    });
    each("copies", "Stores that hold the newest snapshot.", &|source| Some(whole(source.copies)));
    each("copies_wanted", "Stores that the policy asks for.", &|source| Some(whole(source.copies_wanted)));
    each("drill_age_seconds", "Since the last drill that passed began.", &|source| since(source.drill_passed_at));
    each("holds", "Holds on snapshots.", &|source| Some(whole(source.holds)));
}

fn stores(checked: &Checked, gauge: &mut Gauge<'_>) {
    let mut each = |name: &str, help: &str, value: &dyn Fn(&CheckedStore) -> Option<f64>| {
        let sample = |store: &CheckedStore| Some((labels(&[("store", &store.store)]), value(store)?));
        gauge(name, help, checked.stores.iter().filter_map(sample).collect());
    };
    each("store_up", "Whether the store can be used.", &|store| Some(f64::from(store.state != StoreState::Down)));
    each("store_behind", "Durable snapshots that the store lacks.", &|store| {
        store.snapshots_behind.map(|behind| behind as f64)
    });
    each("store_free_bytes", "Room that is left.", &|store| store.free_bytes.map(|free| free as f64));
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::labels;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(labels(&[("store", "a\"b\\c\nd")]), "{store=\"a\\\"b\\\\c\\nd\"}");
    }
}
