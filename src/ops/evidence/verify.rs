//! Verifies the control log on every store: signatures, chains, and that nothing which was there is gone. Needs no key.

use super::{
    acknowledge::Lost,
    journal::{Chain, Journal},
};
use crate::{
    core::{
        evidence::{Control, Phase, WriterId},
        id::Sha256,
        lost::{self, LostRecords},
        result::{EvidenceFinding, EvidenceProblem, EvidenceRecord, EvidenceResult, EvidenceSchema, Problem, Status},
    },
    format,
    repository::{Repository, catalogue::Refusal, evidence::SignedRecord, fetch::problem_of, head, layout},
};
use futures_util::{StreamExt, future::join_all, stream};
use std::collections::{BTreeMap, BTreeSet};

/// Records that are read at once.
const CONCURRENT_READS: usize = 8;

/// The most records of one gap that are named one by one.
const GAP_NAMED_MAX: u64 = 1_000;

/// A record's place: whose chain, which number.
pub type Place = (WriterId, u64);

/// The control log as the stores show it.
#[derive(Debug, Default)]
pub struct Examined {
    /// Good records, each with the positions of the stores that hold it right.
    pub records: BTreeMap<Place, (SignedRecord, BTreeSet<usize>)>,
    /// What each store lists, by its position; none where it could not be read.
    pub listed: BTreeMap<usize, BTreeMap<Place, Objects>>,
    /// What is wrong.
    pub findings: BTreeSet<EvidenceFinding>,
    /// Places where a record or its body is not to be had right from a store, by its position, and in which way.
    pub bad: BTreeMap<Place, BTreeMap<usize, EvidenceProblem>>,
    /// What was acknowledged as lost, by any good record.
    pub lost: LostRecords,
}

/// What a store lists of one record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Whether its envelope is there.
    pub envelope: bool,
    /// Whether its signature is there.
    pub signature: bool,
    /// Bytes of its body, where that is there.
    pub body: Option<u64>,
}

/// Verifies everything.
pub async fn verify(repository: &Repository, journal: Option<&Journal>) -> EvidenceResult {
    let own = journal.and_then(Journal::chain);
    let examined = examine(repository, own.as_ref()).await;
    let nothing_read = examined.listed.is_empty();
    let status = match examined.findings.iter().map(|finding| finding.problem.status()).max() {
        _ if nothing_read => Status::Unknown,
        Some(worst) => worst,
        None => Status::Ok,
    };
    let mut notes = open_starts(&examined);
    notes.extend(examined.lost_notes());
    let names = |stores: &BTreeSet<usize>| stores.iter().map(|at| repository.stores[*at].name().to_owned()).collect();
    let records = examined.records.into_values().map(|(signed, stores)| EvidenceRecord {
        sha256: signed.sha256,
        stores: names(&stores),
        record: signed.record,
        body: None,
    });
    EvidenceResult {
        schema: EvidenceSchema,
        status,
        records: records.collect(),
        findings: examined.findings.into_iter().collect(),
        notes,
    }
}

fn open_starts(examined: &Examined) -> Vec<String> {
    let records = examined.records.values().map(|(signed, _)| &signed.record);
    let closed: BTreeSet<Place> = records.clone().filter_map(|record| Some((record.writer, record.closes?))).collect();
    let open = records.filter(|record| record.phase == Phase::Start);
    open.filter(|record| !closed.contains(&(record.writer, record.number)))
        .map(|record| {
            format!(
                "record {}/{} began a {} at {} and has no end yet",
                record.writer, record.number, record.action, record.recorded_at
            )
        })
        .collect()
}

/// Reads every record from every store.
pub async fn examine(repository: &Repository, own: Option<&Chain>) -> Examined {
    let mut examined = Examined::default();
    list(repository, &mut examined).await;
    read(repository, &mut examined).await;
    examined.note_lost();
    examined.check_chains(repository);
    examined.check_stores(repository, own);
    // Where nothing could be read, nothing is known to be missing.
    if !examined.listed.is_empty() {
        examined.check_seen(repository);
        own.iter().for_each(|own| examined.check_own(repository, own));
    }
    examined.forgive_lost();
    examined
}

async fn list(repository: &Repository, examined: &mut Examined) {
    let listings = join_all(repository.stores.iter().map(|store| async move {
        match head::status(store, repository.id).await.problem() {
            Some(why) => Err(why),
            None => store.list(layout::EVIDENCE).await.map_err(|error| head::reason(&error)),
        }
    }))
    .await;
    for (at, listing) in listings.into_iter().enumerate() {
        match listing {
            Ok(names) => {
                let listed = examined.listed.entry(at).or_default();
                for (name, size) in names {
                    note_object(listed, &name, size);
                }
            }
            Err(why) => {
                let store = Some(repository.stores[at].name().to_owned());
                examined.find(EvidenceProblem::Unreachable, store, None, why);
            }
        }
    }
}

fn note_object(listed: &mut BTreeMap<Place, Objects>, name: &str, size: u64) {
    let Some((stem, ending)) = name.rsplit_once('.') else { return };
    let Some(place) = layout::evidence_record(&format!("{stem}.json")) else { return };
    let objects = listed.entry(place).or_default();
    match ending {
        "json" => objects.envelope = true,
        "sig" => objects.signature = true,
        "age" => objects.body = Some(size),
        _ => {}
    }
}

/// The word for a record that is not accepted.
pub(super) fn problem_of_refusal(why: &Refusal) -> EvidenceProblem {
    match why {
        Refusal::Untrusted(_) => EvidenceProblem::Untrusted,
        Refusal::Damaged(_) | Refusal::Misplaced(_) => EvidenceProblem::Altered,
        Refusal::Newer(_) | Refusal::Unreadable(_) => EvidenceProblem::Unreachable,
    }
}

/// One record on one store, read.
struct Read {
    at: usize,
    place: Place,
    outcome: Result<SignedRecord, Refusal>,
    /// What is wrong with its body.
    body: Option<(EvidenceProblem, String)>,
}

async fn read(repository: &Repository, examined: &mut Examined) {
    let wanted: Vec<(usize, Place)> = examined
        .listed
        .iter()
        .flat_map(|(at, listed)| listed.iter().filter(|(_, objects)| objects.envelope).map(|(place, _)| (*at, *place)))
        .collect();
    let reading = stream::iter(wanted).map(|(at, place)| read_one(repository, at, place));
    let all: Vec<Read> = reading.buffer_unordered(CONCURRENT_READS).collect().await;
    let mut good: BTreeMap<Place, BTreeMap<Sha256, (SignedRecord, BTreeSet<usize>)>> = BTreeMap::new();
    let mut refused: Vec<(usize, Place, Refusal)> = Vec::new();
    for Read { at, place, outcome, body } in all {
        match outcome {
            Ok(signed) => {
                let entry = good.entry(place).or_default().entry(signed.sha256);
                entry.or_insert_with(|| (signed, BTreeSet::new())).1.insert(at);
                if let Some((problem, why)) = body {
                    let store = Some(repository.stores[at].name().to_owned());
                    examined.bad.entry(place).or_default().insert(at, problem);
                    examined.find(problem, store, Some(place), why);
                }
            }
            Err(why) => refused.push((at, place, why)),
        }
    }
    for (at, place, why) in refused {
        let problem = match why {
            // With a good one elsewhere, this copy is not another's record: it was changed.
            Refusal::Untrusted(_) if good.contains_key(&place) => EvidenceProblem::Altered,
            _ => problem_of_refusal(&why),
        };
        examined.bad.entry(place).or_default().insert(at, problem);
        examined.find(problem, Some(repository.stores[at].name().to_owned()), Some(place), why.to_string());
    }
    for (place, versions) in good {
        if versions.len() > 1 {
            let message = "its writer signed two records of this number: two hosts write one chain".to_owned();
            examined.find(EvidenceProblem::Forked, None, Some(place), message);
        }
        // Of a fork, what most stores hold; all of it is found above.
        if let Some(version) = versions.into_values().max_by_key(|(_, stores)| stores.len()) {
            examined.records.insert(place, version);
        }
    }
}

async fn read_one(repository: &Repository, at: usize, place: Place) -> Read {
    let (writer, number) = place;
    let outcome = match repository.read_record(at, writer, number).await {
        Ok(Some(signed)) => Ok(signed),
        Ok(None) => Err(Refusal::Unreadable("it was listed and is not there".to_owned())),
        Err(why) => Err(why),
    };
    let mut body = None;
    if let Ok(signed) = &outcome {
        let wanted = signed.record.body;
        body = match repository.stores[at].get(&layout::evidence(writer, number, "age"), wanted.size).await {
            Ok(bytes) if format::sha256(&bytes) == wanted.sha256 => None,
            Ok(_) => Some((EvidenceProblem::Altered, "its body is not the one that its envelope names".to_owned())),
            Err(error) => {
                let problem = match problem_of(&error) {
                    Problem::Unreachable => EvidenceProblem::Unreachable,
                    _ => EvidenceProblem::Altered,
                };
                Some((problem, format!("its body is {}", problem_of(&error))))
            }
        };
    }
    Read { at, place, outcome, body }
}

impl Examined {
    fn find(&mut self, problem: EvidenceProblem, store: Option<String>, place: Option<Place>, message: String) {
        let (writer, number) = place.unzip();
        self.findings.insert(EvidenceFinding { problem, store, writer, number, message });
    }

    /// The newest number of each writer that is known to have existed, in whichever way.
    fn newest(&self) -> BTreeMap<WriterId, u64> {
        let mut newest: BTreeMap<WriterId, u64> = BTreeMap::new();
        for (writer, number) in self.records.keys() {
            let of_writer = newest.entry(*writer).or_default();
            *of_writer = (*of_writer).max(*number);
        }
        newest
    }

    /// Every record follows the one before it, from the first.
    ///
    /// Only what is there is walked through: a signer may put any number on a record.
    fn check_chains(&mut self, repository: &Repository) {
        for writer in self.newest().into_keys() {
            // What was acknowledged is a note, and no finding.
            self.gaps(writer).into_iter().for_each(|(first, last)| self.check_gap(writer, first, last + 1));
            for number in self.numbers(writer) {
                let signed = &self.records[&(writer, number)].0;
                let before = self.records.get(&(writer, number - 1));
                if before.is_some_and(|(before, _)| signed.record.previous != Some(before.sha256)) {
                    let message = "it does not follow the record before it".to_owned();
                    self.find(EvidenceProblem::Altered, None, Some((writer, number)), message);
                }
            }
        }
        debug_assert!(self.listed.keys().all(|at| *at < repository.stores.len()));
    }

    /// The numbers of a chain's good records, in order.
    fn numbers(&self, writer: WriterId) -> Vec<u64> {
        self.records.range((writer, 0)..=(writer, u64::MAX)).map(|((_, number), _)| *number).collect()
    }

    fn note_lost(&mut self) {
        self.records.values().for_each(|(signed, _)| self.lost.add_acknowledged(&signed.record));
    }

    /// What is said for ever of what was acknowledged and did not turn up.
    fn lost_notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for ((by, at), (signed, _)) in &self.records {
            let Some(Control::RecordsLost { writer, first, last }) = signed.record.control else { continue };
            let counts = lost::acknowledged_by(&signed.record).map_or(0, |(_, _, counts)| counts);
            if counts < last {
                let early = Lost { writer, first: first.max(counts + 1), last };
                notes.push(format!(
                    "record {by}/{at} acknowledges evidence {early} as lost, and had seen none of it: that does not count"
                ));
            }
            let Some((writer, first, last)) = lost::acknowledged_by(&signed.record) else { continue };
            let there = self.records.range((writer, first)..=(writer, last)).count() as u64;
            let missing = (last - first + 1).saturating_sub(there);
            if missing > 0 {
                let lost = Lost { writer, first, last };
                let partly = if there > 0 { format!(", but for {there} that turned up") } else { String::new() };
                notes.push(format!("evidence {lost} is lost{partly}, as record {by}/{at} acknowledges"));
            }
        }
        notes
    }

    /// Takes out the findings that are exactly of a record which was acknowledged as lost, and is nowhere good.
    fn forgive_lost(&mut self) {
        let (lost, records) = (&self.lost, &self.records);
        self.findings.retain(|finding| match (finding.writer, finding.number) {
            (Some(writer), Some(number)) => {
                matches!(
                    finding.problem,
                    EvidenceProblem::Behind | EvidenceProblem::Unreachable | EvidenceProblem::Forked
                ) || records.contains_key(&(writer, number))
                    || !lost.contains(writer, number)
            }
            _ => true,
        });
    }

    /// No good record has a number from `first` on and before `next`, which is there.
    fn check_gap(&mut self, writer: WriterId, first: u64, next: u64) {
        let named = next.min(first + GAP_NAMED_MAX);
        for number in first..named {
            if !self.bad.contains_key(&(writer, number)) {
                let message = "no store that answers has it, and later ones exist".to_owned();
                self.find(EvidenceProblem::Removed, None, Some((writer, number)), message);
            }
        }
        if named < next {
            let message = format!("no store that answers has it or those up to {}, and later ones exist", next - 1);
            self.find(EvidenceProblem::Removed, None, Some((writer, named)), message);
        }
    }

    /// What each store once had, it still has.
    fn check_stores(&mut self, repository: &Repository, own: Option<&Chain>) {
        for at in self.listed.keys().copied().collect::<Vec<_>>() {
            let name = repository.stores[at].name().to_owned();
            for writer in self.newest().into_keys() {
                let had = self.had(&name, at, writer, own);
                let lacks =
                    |number: &u64| !self.listed[&at].get(&(writer, *number)).copied().unwrap_or_default().envelope;
                let lacking = self.numbers(writer).into_iter().filter(lacks);
                let (removed, mut behind): (Vec<u64>, Vec<u64>) = lacking.partition(|number| had.contains(number));
                // What nobody can bring is found where it is ruined.
                behind.retain(|number| !self.is_ruined((writer, *number)));
                for number in removed {
                    let message = "the store had it, and has it no more; others still do".to_owned();
                    self.find(EvidenceProblem::Removed, Some(name.clone()), Some((writer, number)), message);
                }
                if let Some(first) = behind.first() {
                    let behind = behind.len();
                    let known = self.store_names(writer, own);
                    let message = if known.is_empty() || known.contains(name.as_str()) {
                        format!("it lacks {behind} that it never acknowledged; recoup copy brings them")
                    } else {
                        let known = known.into_iter().collect::<Vec<_>>().join(", ");
                        format!(
                            "it lacks {behind}, and whether it ever had them cannot be told: the records call the \
                             stores {known}; with --store NAME=URL, give it its name"
                        )
                    };
                    self.find(EvidenceProblem::Behind, Some(name.clone()), Some((writer, *first)), message);
                }
            }
        }
    }

    /// What the records of a chain, and this host where it is its own, call the stores.
    fn store_names<'e>(&'e self, writer: WriterId, own: Option<&'e Chain>) -> BTreeSet<&'e str> {
        let of_writer = self.records.range((writer, 0)..=(writer, u64::MAX)).map(|(_, (signed, _))| signed);
        let said = of_writer.flat_map(|signed| signed.record.acknowledged.keys());
        let known = own.filter(|own| own.writer == writer).into_iter().flat_map(|own| own.acknowledged.keys());
        said.chain(known).map(String::as_str).collect()
    }

    /// The good records of a chain that a store is known to have had: a later record says so, or this host knows.
    ///
    /// It had those, too, of whose signer it has a later one: they come in order, and who brought that one trusted the
    /// signer. Of another signer, a later one says nothing: it may have been brought while this one was not trusted, until
    /// somebody vouched for it. What was acknowledged as lost was passed over, and may turn up elsewhere.
    fn had(&self, name: &str, at: usize, writer: WriterId, own: Option<&Chain>) -> BTreeSet<u64> {
        let of_writer = || self.records.range((writer, 0)..=(writer, u64::MAX)).map(|((_, number), of)| (*number, of));
        let said = of_writer().filter_map(|(_, (signed, _))| signed.record.acknowledged.get(name).copied()).max();
        let known = own.filter(|own| own.writer == writer).and_then(|own| own.acknowledged.get(name).copied());
        let acknowledged = said.max(known).unwrap_or(0);
        let shows = |number: u64| self.listed[&at].get(&(writer, number)).is_some_and(|objects| objects.envelope);
        let shown = of_writer().filter(|(number, _)| shows(*number));
        let newest: BTreeMap<&str, u64> =
            shown.map(|(number, (signed, _))| (signed.record.signer.as_str(), number)).collect();
        let has_later = |number: u64, signer: &str| {
            newest.get(signer).is_some_and(|newest| number <= *newest) && !self.is_ruined((writer, number))
        };
        let had = of_writer().filter(|(number, (signed, _))| {
            !self.lost.contains(writer, *number)
                && (*number <= acknowledged || has_later(*number, &signed.record.signer))
        });
        had.map(|(number, _)| number).collect()
    }

    /// Whether a store has something in this place that is not accepted.
    pub fn is_bad(&self, at: usize, place: Place) -> bool {
        self.bad.get(&place).is_some_and(|stores| stores.contains_key(&at))
    }

    /// Whether no store has a good record whole: nothing can be brought of it. What could not be read now may be whole.
    pub fn is_ruined(&self, place: Place) -> bool {
        let holders = self.records.get(&place).map(|(_, stores)| stores);
        let problem = |at: &usize| self.bad.get(&place)?.get(at);
        let is_ruined_on = |at: &usize| problem(at).is_some_and(|problem| *problem != EvidenceProblem::Unreachable);
        holders.is_none_or(|stores| stores.iter().all(is_ruined_on))
    }

    /// The first record of each chain that could not be read and may well exist: behind an error that passes, or on a
    /// store that does not answer. What was acknowledged as lost is none of them, for everybody goes on past it; nor is
    /// what is not trusted, for that would be so from every store.
    pub fn awaited(&self, repository: &Repository) -> BTreeMap<WriterId, u64> {
        let a_store_is_silent = self.listed.len() < repository.stores.len();
        let may_turn_up = |place: Place| {
            let is_any = |problem| self.bad.get(&place).is_some_and(|stores| stores.values().any(|of| *of == problem));
            is_any(EvidenceProblem::Unreachable) || a_store_is_silent && !is_any(EvidenceProblem::Untrusted)
        };
        let first_of = |writer: WriterId| {
            let gaps = self.gaps(writer).into_iter().map(|(first, last)| (first, last.min(first + GAP_NAMED_MAX)));
            gaps.flat_map(|(first, last)| first..=last).find(|number| may_turn_up((writer, *number)))
        };
        self.newest().into_keys().filter_map(|writer| Some((writer, first_of(writer)?))).collect()
    }

    /// The stretches of a chain that have no good record, though a later one is there, and were not acknowledged.
    fn gaps(&self, writer: WriterId) -> Vec<(u64, u64)> {
        let (mut gaps, mut expected) = (Vec::new(), 1);
        for number in self.numbers(writer) {
            if number > expected {
                gaps.extend(self.lost.others(writer, expected, number - 1));
            }
            expected = number + 1;
        }
        gaps
    }

    /// What one writer saw of another is still there.
    fn check_seen(&mut self, repository: &Repository) {
        let enough_answer = self.listed.len() >= repository.control_read_quorum();
        let seen: BTreeSet<_> =
            self.records.values().flat_map(|(signed, _)| signed.record.seen.iter().copied()).collect();
        for seen in seen {
            let place = (seen.writer, seen.number);
            match self.records.get(&place) {
                Some((signed, _)) if signed.sha256 == seen.sha256 => {}
                Some(_) => {
                    let message = "another writer has seen another record of this number".to_owned();
                    self.find(EvidenceProblem::Forked, None, Some(place), message);
                }
                // It lies there and is not accepted, which is found above.
                None if self.bad.contains_key(&place) => {}
                None => {
                    let problem = if enough_answer { EvidenceProblem::Removed } else { EvidenceProblem::Unreachable };
                    let message = "another writer has seen it, and no store that answers has it".to_owned();
                    self.find(problem, None, Some(place), message);
                }
            }
        }
    }

    /// What this host knows of its own chain.
    fn check_own(&mut self, repository: &Repository, own: &Chain) {
        let shown = self.newest().get(&own.writer).copied().unwrap_or(0);
        let silent = |name: &str| {
            let at = repository.stores.iter().position(|store| store.name() == name);
            at.is_some_and(|at| !self.listed.contains_key(&at))
        };
        // What only silent stores have acknowledged, they may still have.
        let (may_have, must_have): (Vec<_>, Vec<_>) = own.acknowledged.iter().partition(|(name, _)| silent(name));
        let last = |of: &[(&String, &u64)]| of.iter().map(|(_, number)| **number).max().unwrap_or(0);
        let (may_have, must_have) = (last(&may_have), last(&must_have));
        for number in shown + 1..=own.number() {
            let place = Some((own.writer, number));
            if number <= must_have {
                let message = "a store has acknowledged it, and no store that answers has it".to_owned();
                self.find(EvidenceProblem::Removed, None, place, message);
            } else if number <= may_have {
                let message = "only stores that do not answer have acknowledged it".to_owned();
                self.find(EvidenceProblem::Unreachable, None, place, message);
            } else {
                let message = "it is on this host, and no store has it yet; the next command ships it".to_owned();
                self.find(EvidenceProblem::Behind, None, place, message);
            }
        }
        if shown > own.number() {
            let message = "this host has not written it: its state directory was copied, or set back".to_owned();
            self.find(EvidenceProblem::Forked, None, Some((own.writer, own.number() + 1)), message);
        }
        if let (Some(head), Some((signed, _))) = (own.head, self.records.get(&(own.writer, own.number())))
            && signed.sha256 != head.sha256
        {
            let message = "this host has written another record of this number".to_owned();
            self.find(EvidenceProblem::Forked, None, Some((own.writer, head.number)), message);
        }
    }
}
