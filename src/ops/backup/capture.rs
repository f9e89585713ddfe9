//! The blocking half of a backup: read, find changed blocks, compress, seal.
//!
//! It runs on threads of its own and hands sealed objects to the shipment. The view of the source is closed as soon
//! as the last pack is sealed, however slow the stores are.

use super::{
    base::BaseManifest,
    fuzzy,
    last::Last,
    pipeline,
    reuse::{self, Replaced},
    segments::Input,
    shipment::{Outbox, Parcel},
};
use crate::{
    core::{
        alteration::Alteration,
        blocks::BlockSet,
        extents::ExtentList,
        failure::Failure,
        fingerprint::Fingerprints,
        id::{RepositoryId, RunId, Sha256, SourceName},
        manifest::{Item, PartId, PartRef},
        path::StoredPath,
        plan::merge::{Captured, NewPart, merge},
        policy::FingerprintRule,
    },
    format::{
        facts::Facts,
        index,
        manifest::{self, PartWriter, Root},
        objects::{ObjectKind, RunObject},
        seal::{Recipients, SealedObject, seal_small},
    },
    ops::state::{DigestFile, SourceState},
    repository::layout,
    sources::{Continued, LogBeginning, Source, View, ViewFacts},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};
use tokio::sync::oneshot;

/// What a capture works with.
pub(super) struct CaptureRequest {
    pub(super) repository: RepositoryId,
    pub(super) source_name: SourceName,
    pub(super) source: Arc<dyn Source>,
    pub(super) run: RunId,
    pub(super) recipients: Recipients,
    /// The custodians and the host's catalogue key.
    pub(super) structure_recipients: Recipients,
    pub(super) compression_level: i32,
    pub(super) configuration: String,
    pub(super) catalogue_identity: Option<String>,
    pub(super) digest_key: [u8; 32],
    pub(super) base: Option<BaseManifest>,
    /// What local state knows of the last capture; of an incremental's base always.
    pub(super) last: Option<Last>,
    pub(super) state: SourceState,
    /// What fingerprints are taken of, if of anything.
    pub(super) fingerprints: Option<FingerprintRule>,
    /// Is told where the log of the view begins.
    pub(super) begun: Option<oneshot::Sender<Option<LogBeginning>>>,
}

/// The packs that a snapshot uses, by run.
type Uses = BTreeMap<RunId, BTreeSet<u32>>;

/// What a capture produced, besides the objects that went to the shipment.
pub(super) struct Capture {
    pub(super) facts: ViewFacts,
    /// What the source found altered since the last capture.
    pub(super) alterations: Vec<Alteration>,
    /// What the snapshot uses of each run.
    pub(super) uses: Uses,
    /// The root; `None` when the base's root says the same.
    pub(super) root: Option<SealedObject>,
    /// The run's objects, sorted by name.
    pub(super) objects: Vec<RunObject>,
    pub(super) new_digests: DigestFile,
    /// BLAKE3 of those digests; why there are none, if so.
    pub(super) digests_blake3: Result<String, Failure>,
    pub(super) state: SourceState,
}

/// Captures the source; objects go to `outbox` as they are sealed.
pub(super) fn capture(mut request: CaptureRequest, outbox: Outbox) -> Result<Capture, Failure> {
    let mut view = match &request.last {
        // What a full replaces in local state must have been compared before.
        Some(last) => request.source.open_since(last, request.base.is_none())?,
        None => request.source.open()?,
    };
    if let Some(begun) = request.begun.take() {
        // Nobody waits for it where the run was cut short.
        let _ = begun.send(view.log_begins());
    }
    let facts = view.facts().clone();
    let alterations = view.alterations().to_vec();
    let new_digests = request.state.create_digests(request.run, &facts.entries);
    let fingerprints = None;
    let mut work = Work { request, outbox, facts, alterations, new_digests, objects: Vec::new(), fingerprints };
    match work.run(view.as_mut()) {
        Ok(read) => work.finish(view, read),
        Err(failure) => {
            drop(view);
            work.new_digests.discard();
            Err(failure)
        }
    }
}

struct Work {
    request: CaptureRequest,
    outbox: Outbox,
    facts: ViewFacts,
    alterations: Vec<Alteration>,
    new_digests: DigestFile,
    objects: Vec<RunObject>,
    /// Fingerprints that are being taken.
    fingerprints: Option<JoinHandle<Fingerprints>>,
}

/// What came of reading.
struct Read {
    replaced: Replaced,
    packed: pipeline::Packed,
    /// Extents of the base that other files hold now, by those.
    moved: BTreeMap<StoredPath, ExtentList>,
}

impl Work {
    /// Everything that needs the view.
    fn run(&mut self, view: &mut dyn View) -> Result<Read, Failure> {
        if view.is_fuzzy() {
            return self.run_fuzzy(view);
        }
        let entries = &self.facts.entries;
        let continued: Vec<Option<Continued>> =
            (0..entries.len()).map(|entry| view.continued(entry).cloned()).collect();
        let mut replaced = match &self.request.base {
            None => self.everything(),
            Some(_) => pipeline::find_changes(
                view,
                entries,
                &self.request.digest_key,
                self.request.last.as_ref().map(Last::digest_file),
                &self.new_digests,
                &continued,
            )?,
        };
        let mut moved = BTreeMap::new();
        if let Some(base) = &self.request.base {
            let users = reuse::Users::new(entries, &continued);
            let again = reuse::capture_again(base, &users, &replaced)?;
            reuse::add(&mut replaced, &again);
            moved = reuse::moved_extents(base, &users, &replaced)?;
        }
        // In a full nothing was compared before: the digests are written on the way.
        let job = self.job(self.request.base.is_none());
        let mut packed = pipeline::Packed::default();
        pipeline::pack(Input::View(view), entries, &replaced, &job, None, &mut packed)?;
        pipeline::end_job(job, &mut packed)?;
        Ok(Read { replaced, packed, moved })
    }

    fn job(&self, write_digests: bool) -> pipeline::PackJob<'_> {
        let request = &self.request;
        let (recipients, level) = (&request.recipients, request.compression_level);
        let (key, digests) = (&request.digest_key, &self.new_digests);
        pipeline::PackJob::new(request.run, recipients, level, key, digests, write_digests, &self.outbox)
    }

    /// The same for files that change while they are read: each block is read, compared and packed in one pass, and
    /// what is recorded of it is what was packed.
    fn run_fuzzy(&mut self, view: &mut dyn View) -> Result<Read, Failure> {
        let entries = &self.facts.entries;
        let old = self.request.base.as_ref().and(self.request.last.as_ref()).map(Last::digest_file);
        let mut wanted = match old {
            Some(old) => fuzzy::suspects(view, entries, old, &self.new_digests)?,
            None => self.everything(),
        };
        let late = fuzzy::take_late(view.late(), entries, &mut wanted);
        let job = self.job(true);
        let mut packed = pipeline::Packed::default();
        let changed = entries.iter().map(|entry| Mutex::new(BlockSet::none(entry.blocks()))).collect();
        let comparing = old.map(|old| pipeline::Comparing { old: Some(old), changed });
        pipeline::pack(Input::of(view), entries, &wanted, &job, comparing.as_ref(), &mut packed)?;
        let mut replaced = match comparing {
            Some(comparing) => {
                // A bit for every block of a large cluster is as much as one set of them should take.
                drop(wanted);
                fuzzy::by_path(entries, comparing.changed)
            }
            None => wanted,
        };
        if let Some(base) = &self.request.base {
            let nothing_moved = vec![None; entries.len()];
            let mut again = reuse::capture_again(base, &reuse::Users::new(entries, &nothing_moved), &replaced)?;
            // These are all read at the end, whatever becomes of their packs.
            view.late().iter().for_each(|at| drop(again.remove(&entries[*at].path)));
            // Read again, and not compared: it may have changed since.
            pipeline::pack(Input::of(view), entries, &again, &job, None, &mut packed)?;
            reuse::add(&mut replaced, &again);
        }
        view.finish()?;
        let taking = self.request.fingerprints.as_ref().and_then(|rule| view.fingerprints(rule));
        let taking = taking.map(thread::spawn);
        pipeline::pack(Input::View(view), entries, &late, &job, None, &mut packed)?;
        replaced.extend(late);
        pipeline::end_job(job, &mut packed)?;
        self.fingerprints = taking;
        self.facts = view.facts().clone();
        Ok(Read { replaced, packed, moved: BTreeMap::new() })
    }

    fn everything(&self) -> Replaced {
        self.facts.entries.iter().map(|entry| (entry.path.clone(), BlockSet::all(entry.blocks()))).collect()
    }

    /// Everything after the last pack is sealed: the view ends, and the structure is written.
    fn finish(mut self, view: Box<dyn View>, read: Read) -> Result<Capture, Failure> {
        if let Err(failure) = view.close() {
            self.new_digests.discard();
            return Err(failure);
        }
        let digests_blake3 = self.new_digests.seal();
        match self.write_structure(read) {
            Ok((root, uses)) => {
                self.objects.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(Capture {
                    facts: self.facts,
                    alterations: self.alterations,
                    uses,
                    root,
                    objects: self.objects,
                    new_digests: self.new_digests,
                    digests_blake3,
                    state: self.request.state,
                })
            }
            Err(failure) => {
                self.new_digests.discard();
                Err(failure)
            }
        }
    }

    fn write_structure(&mut self, read: Read) -> Result<(Option<SealedObject>, Uses), Failure> {
        let Read { replaced, packed, mut moved } = read;
        let run = self.request.run;
        self.objects.extend(packed.objects);
        if !packed.indexes.is_empty() {
            let sealed = index::seal(&self.request.structure_recipients, run, packed.indexes.into_values());
            self.ship(&ObjectKind::Index.name(), sealed)?;
        }
        let mut extents = packed.extents;
        let captured = replaced
            .into_iter()
            .map(|(path, replaced)| {
                let extents = extents.remove(&path).unwrap_or_default();
                let captured = match moved.remove(&path) {
                    Some(moved) => reuse::with_moved(replaced.length(), extents, moved),
                    None => Captured { replaced, extents },
                };
                (path, captured)
            })
            .collect();
        let (parts, mut uses) = self.write_parts(&captured)?;
        self.write_facts()?;
        if !self.objects.is_empty() {
            uses.entry(run).or_default();
        }
        let root = Root {
            repository: self.request.repository,
            source: self.request.source_name.clone(),
            source_kind: self.request.source.kind().to_owned(),
            configuration: self.request.configuration.clone(),
            catalogue_identity: self.request.catalogue_identity.clone(),
            parts,
        };
        let is_same = self.request.base.as_ref().is_some_and(|base| base.root == root);
        let sealed = (!is_same).then(|| seal_small(&self.request.structure_recipients, &root.to_lines()));
        Ok((sealed, uses))
    }

    /// Waits for the fingerprints, as long as the policy permits them to take.
    fn write_facts(&mut self) -> Result<(), Failure> {
        let Some(taking) = self.fingerprints.take() else { return Ok(()) };
        let taken =
            taking.join().unwrap_or_else(|_| Fingerprints::not_taken("", "the thread that takes them panicked"));
        self.facts.notes.extend(taken.shortfall());
        let facts = Facts::of(self.request.run, taken);
        let sealed = seal_small(&self.request.recipients, &facts.to_bytes());
        self.ship(&ObjectKind::Facts.name(), sealed)
    }

    fn ship(&mut self, name: &str, object: SealedObject) -> Result<(), Failure> {
        self.objects.push(RunObject { name: name.to_owned(), size: object.size(), sha256: object.sha256 });
        self.outbox.send(Parcel { name: layout::run_object(self.request.run, name), object })
    }

    fn write_parts(&mut self, captured: &BTreeMap<StoredPath, Captured>) -> Result<(Vec<PartRef>, Uses), Failure> {
        let base = self.request.base.take();
        let retired = base.as_ref().map(BaseManifest::retired_part_runs).unwrap_or_default();
        let mut uses = Uses::new();
        let mut parts = Vec::new();
        let mut number = 0;
        let old: Vec<PartRef> = base.iter().flat_map(BaseManifest::parts).cloned().collect();
        let entries = self.facts.entries.clone();
        merge(
            &old,
            |part| base.as_ref().map_or_else(|| Ok(Vec::new()), |base| base.open(part)),
            &entries,
            captured,
            |part: PartId| retired.contains(&part.run),
            |part| {
                let (NewPart::Again(_, items) | NewPart::Write(items)) = &part;
                for item in items {
                    if let Item::Extent(_, extent) = item {
                        uses.entry(extent.pack.run).or_default().insert(extent.pack.pack);
                    }
                }
                match part {
                    NewPart::Again(part, _) => {
                        uses.entry(part.id.run).or_default();
                        parts.push(part);
                        Ok(())
                    }
                    NewPart::Write(items) => self.write_items(&items, &mut number, &mut parts),
                }
            },
        )?;
        self.request.base = base;
        Ok((parts, uses))
    }

    /// Writes items as parts of at most 4 MiB.
    fn write_items(&mut self, items: &[Item], number: &mut u32, parts: &mut Vec<PartRef>) -> Result<(), Failure> {
        let mut writer = PartWriter::default();
        for item in items {
            // One more line never takes more than 32 KiB.
            if writer.raw_bytes() + 32 * 1024 > manifest::MAX_RAW_BYTES {
                self.write_part(std::mem::take(&mut writer), number, parts)?;
            }
            writer.push(item);
        }
        self.write_part(writer, number, parts)
    }

    fn write_part(&mut self, writer: PartWriter, number: &mut u32, parts: &mut Vec<PartRef>) -> Result<(), Failure> {
        let Some(from) = writer.from().cloned() else {
            return Ok(());
        };
        let lines = writer.finish();
        assert!(lines.len() as u64 <= manifest::MAX_RAW_BYTES, "a part of {} bytes", lines.len());
        let sealed = seal_small(&self.request.structure_recipients, &lines);
        self.ship(&ObjectKind::ManifestPart(*number).name(), sealed)?;
        parts.push(PartRef { from, id: PartId { run: self.request.run, part: *number } });
        *number += 1;
        Ok(())
    }
}

/// SHA-256 of the configuration text, as local state records it.
pub(super) fn configuration_sha256(configuration: &str) -> Sha256 {
    crate::format::sha256(configuration.as_bytes())
}
