//! This host's own chain, on its own disk: a record is here, synced, before any store gets it.
//!
//! `chain.json` names the newest record, `records/` holds those that some store still lacks and the newest one,
//! `running/` has a locked file for every start that has no end yet.

use crate::{
    core::{
        evidence::{BodyRef, ChainHead, Control, Record, WriterId},
        failure::Failure,
        id::{RepositoryId, Sha256, SourceName},
    },
    format::{self, evidence as evidence_format},
    ops::host::state_failure,
    world::{
        World,
        files::{self, Lock},
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// The newest record of this host's chain, and what the stores have of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The repository.
    pub repository: RepositoryId,
    /// The writer: this state directory.
    pub writer: WriterId,
    /// Its newest record; none yet at the beginning.
    pub head: Option<ChainHead>,
    /// The newest record that each store has acknowledged.
    #[serde(default)]
    pub acknowledged: BTreeMap<String, u64>,
    /// SHA-256 of the configuration that the chain has recorded last.
    #[serde(default)]
    pub configuration_sha256: Option<Sha256>,
    /// How many stores make a snapshot of each source durable, as the chain has recorded it last.
    #[serde(default)]
    pub min_stores: BTreeMap<SourceName, u64>,
    /// Records of chains that were given up, which this one has yet to say again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub restates: BTreeSet<(WriterId, u64)>,
}

impl Chain {
    fn new(repository: RepositoryId, writer: WriterId) -> Self {
        Chain {
            repository,
            writer,
            head: None,
            acknowledged: BTreeMap::new(),
            configuration_sha256: None,
            min_stores: BTreeMap::new(),
            restates: BTreeSet::new(),
        }
    }

    /// Goes on with a record.
    fn take_in(&mut self, record: &Record, head: ChainHead) {
        self.head = Some(head);
        let Some(Control::Configuration { sha256, min_stores, .. }) = &record.control else { return };
        self.min_stores.clone_from(min_stores);
        self.configuration_sha256 = Some(*sha256);
    }

    /// The newest record's number; 0 where there is none.
    pub fn number(&self) -> u64 {
        self.head.map_or(0, |head| head.number)
    }
}

/// A record as it lies here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalRecord {
    /// The exact bytes of the envelope, which are text.
    pub envelope: String,
    /// The signature over them.
    pub signature: String,
}

/// What a process that began something leaves while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Whose chain the start is in.
    pub writer: WriterId,
    /// The start's number.
    pub number: u64,
    /// A directory with plaintext that goes with it.
    pub scratch: Option<PathBuf>,
}

/// A start that is under way: as long as this lives, nobody takes it for dead.
pub struct RunningLock {
    path: PathBuf,
    _lock: Lock,
}

/// The directory of this host's own evidence.
pub struct Journal {
    directory: PathBuf,
    repository: RepositoryId,
}

impl Journal {
    /// The journal below a state directory; nothing is read or made yet.
    pub fn new(state_dir: &Path, repository: RepositoryId) -> Self {
        Journal { directory: state_dir.join("evidence"), repository }
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn record_path(&self, writer: WriterId, number: u64, ending: &str) -> PathBuf {
        self.directory.join("records").join(format!("{writer}-{number:010}.{ending}"))
    }

    fn chain_path(&self) -> PathBuf {
        self.directory.join("chain.json")
    }

    /// The chain; `None` where this host has none for this repository, or only a damaged one.
    pub fn chain(&self) -> Option<Chain> {
        let chain: Chain = read_json(&self.chain_path())?;
        (chain.repository == self.repository).then_some(chain).map(|chain| self.with_unlinked(chain))
    }

    /// Takes in a record that was written just before the process died, and is not in `chain.json` yet.
    fn with_unlinked(&self, mut chain: Chain) -> Chain {
        while let Some((record, sha256)) = self.read(chain.writer, chain.number() + 1) {
            if record.previous != chain.head.map(|head| head.sha256) {
                break;
            }
            chain.take_in(&record, record.head(sha256));
        }
        chain
    }

    /// A record that lies here, and its digest.
    pub fn read(&self, writer: WriterId, number: u64) -> Option<(Record, Sha256)> {
        let local = self.local(writer, number)?;
        let record = evidence_format::parse(local.envelope.as_bytes()).ok()?;
        let fits = record.writer == writer && record.number == number && record.repository == self.repository;
        fits.then(|| (record, format::sha256(local.envelope.as_bytes())))
    }

    /// A record that lies here.
    pub fn local(&self, writer: WriterId, number: u64) -> Option<LocalRecord> {
        read_json(&self.record_path(writer, number, "json"))
    }

    /// The sealed body of a record that lies here.
    pub fn body(&self, writer: WriterId, number: u64) -> io::Result<Vec<u8>> {
        files::read(self.record_path(writer, number, "age"))
    }

    /// This host's records after `number`, as far as they lie here, in order.
    pub fn records_after(&self, number: u64) -> Vec<(Record, Sha256)> {
        let Some(chain) = self.chain() else { return Vec::new() };
        let numbers = self.numbers(chain.writer).split_off(&(number + 1));
        let numbers = numbers.into_iter().filter(|number| *number <= chain.number());
        numbers.filter_map(|number| self.read(chain.writer, number)).collect()
    }

    /// The numbers of a chain's records that lie here.
    pub fn numbers(&self, writer: WriterId) -> BTreeSet<u64> {
        self.objects(writer)
            .filter(|(_, path)| path.extension().is_some_and(|ending| ending == "json"))
            .map(|of| of.0)
            .collect()
    }

    /// The files of a chain's records, with their numbers.
    fn objects(&self, writer: WriterId) -> impl Iterator<Item = (u64, PathBuf)> {
        let prefix = format!("{writer}-");
        fs::read_dir(self.directory.join("records")).into_iter().flatten().flatten().filter_map(move |entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(&prefix)?.split_once('.')?.0.parse().ok()?;
            Some((number, entry.path()))
        })
    }

    fn lock(&self) -> Result<Lock, Failure> {
        let records = self.directory.join("records");
        files::create_private_directories(&records).map_err(|error| state_failure("create", &records, &error))?;
        let path = self.directory.join("lock");
        files::lock(&path).map_err(|error| state_failure("lock", &path, &error))
    }

    /// Adds a record: `make` gets the chain and gives the record with its sealed body, `sign` its signature. On stable
    /// storage when this returns.
    pub fn append(
        &self,
        world: &World,
        make: impl FnOnce(&Chain) -> (Record, Vec<u8>),
        sign: impl FnOnce(&[u8]) -> String,
    ) -> Result<(Record, ChainHead), Failure> {
        let _lock = self.lock()?;
        self.append_locked(world, make, sign)
    }

    fn append_locked(
        &self,
        world: &World,
        make: impl FnOnce(&Chain) -> (Record, Vec<u8>),
        sign: impl FnOnce(&[u8]) -> String,
    ) -> Result<(Record, ChainHead), Failure> {
        let mut chain = self.chain().unwrap_or_else(|| Chain::new(self.repository, world.new_id()));
        let (record, body) = make(&chain);
        debug_assert_eq!(record.body, BodyRef { size: body.len() as u64, sha256: format::sha256(&body) });
        // No reader would follow the chain past it.
        if let Some(why) = record.contradiction() {
            return Err(Failure::internal(format!("evidence record {}/{}: {why}", chain.writer, record.number)));
        }
        let bytes = evidence_format::to_bytes(&record);
        let head = record.head(format::sha256(&bytes));
        let envelope = String::from_utf8(bytes).expect("JSON is text");
        let local = LocalRecord { signature: sign(envelope.as_bytes()), envelope };
        let path = self.record_path(chain.writer, head.number, "age");
        files::write_atomic(&path, &body, 0o600).map_err(|error| state_failure("write", &path, &error))?;
        write_json(&self.record_path(chain.writer, head.number, "json"), &local)?;
        chain.take_in(&record, head);
        write_json(&self.chain_path(), &chain)?;
        Ok((record, head))
    }

    /// Adds a start, and locks its file among those that are under way before anybody can see the record.
    pub fn append_start(
        &self,
        world: &World,
        scratch: Option<PathBuf>,
        make: impl FnOnce(&Chain) -> (Record, Vec<u8>),
        sign: impl FnOnce(&[u8]) -> String,
    ) -> Result<(Record, ChainHead, RunningLock), Failure> {
        let _lock = self.lock()?;
        let chain = match self.chain() {
            Some(chain) => chain,
            None => {
                let chain = Chain::new(self.repository, world.new_id());
                write_json(&self.chain_path(), &chain)?;
                chain
            }
        };
        let directory = self.directory.join("running");
        files::create_private_directories(&directory).map_err(|error| state_failure("create", &directory, &error))?;
        let number = chain.number() + 1;
        let running = Running { writer: chain.writer, number, scratch };
        let path = directory.join(format!("{}-{number:010}.json", chain.writer));
        write_json(&path, &running)?;
        let lock = files::try_lock(&path).map_err(|error| state_failure("lock", &path, &error))?;
        let lock = lock.ok_or_else(|| Failure::internal(format!("{} is locked", path.display())))?;
        let (record, head) = self.append_locked(world, make, sign)?;
        Ok((record, head, RunningLock { path, _lock: lock }))
    }

    /// The starts whose processes are gone, each with its file, which the caller forgets once it is closed.
    pub fn dead(&self) -> Vec<(Running, RunningLock)> {
        let mut dead = Vec::new();
        // While it is held, no start is between its file and its lock.
        let Ok(_lock) = self.lock() else { return dead };
        for entry in fs::read_dir(self.directory.join("running")).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            let Ok(Some(lock)) = files::try_lock(&path) else { continue };
            match read_json::<Running>(&path) {
                Some(running) => dead.push((running, RunningLock { path, _lock: lock })),
                // Cut short by a full disk: no record was written for it.
                None => drop(fs::remove_file(&path)),
            }
        }
        dead.sort_by_key(|(running, _)| (running.writer, running.number));
        dead
    }

    /// Notes what a store has acknowledged, and removes what all of `stores` have.
    pub fn acknowledge(
        &self,
        writer: WriterId,
        acknowledged: &BTreeMap<String, u64>,
        stores: &[&str],
    ) -> Result<(), Failure> {
        let _lock = self.lock()?;
        let Some(mut chain) = self.chain().filter(|chain| chain.writer == writer) else { return Ok(()) };
        let before = chain.clone();
        for (store, number) in acknowledged {
            let newest = chain.acknowledged.entry(store.clone()).or_default();
            *newest = (*newest).max(*number);
        }
        if chain == before {
            return Ok(());
        }
        write_json(&self.chain_path(), &chain)?;
        // What a store has lost since it acknowledged it, it is brought again from here.
        let has = |store: &&str| acknowledged.get(*store).or(chain.acknowledged.get(*store)).copied();
        let everywhere = stores.iter().map(|store| has(store).unwrap_or(0)).min();
        self.remove_records_up_to(writer, everywhere.unwrap_or(0).min(chain.number().saturating_sub(1)));
        Ok(())
    }

    /// What stays costs space and nothing else.
    fn remove_records_up_to(&self, writer: WriterId, last: u64) {
        for (_, path) in self.objects(writer).filter(|(number, _)| *number <= last) {
            let _ = fs::remove_file(path);
        }
    }

    /// Begins a new chain: the one so far is that of another state directory too, or waits on a key that is trusted no
    /// more. Its records stay here, and the new one notes which of them it has to say again.
    pub fn retire(&self, world: &World, writer: WriterId, restates: &BTreeSet<u64>) -> Result<(), Failure> {
        let _lock = self.lock()?;
        self.retire_locked(world, writer, restates)
    }

    /// The same, but not before everything has ended that has begun in it: an end belongs into the chain of its start.
    pub fn retire_closed(&self, world: &World, writer: WriterId, restates: &BTreeSet<u64>) -> Result<(), Failure> {
        let _lock = self.lock()?;
        let prefix = format!("{writer}-");
        let running = fs::read_dir(self.directory.join("running")).into_iter().flatten().flatten();
        match running.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with(&prefix)) {
            true => Ok(()),
            false => self.retire_locked(world, writer, restates),
        }
    }

    fn retire_locked(&self, world: &World, writer: WriterId, restates: &BTreeSet<u64>) -> Result<(), Failure> {
        let Some(chain) = self.chain().filter(|chain| chain.writer == writer) else { return Ok(()) };
        let mut next = Chain::new(self.repository, world.new_id());
        next.restates = chain.restates;
        next.restates.extend(restates.iter().map(|number| (writer, *number)));
        write_json(&self.chain_path(), &next)
    }

    /// Notes that the chain has said a record again.
    pub fn restated(&self, place: (WriterId, u64)) -> Result<(), Failure> {
        let _lock = self.lock()?;
        let Some(mut chain) = self.chain() else { return Ok(()) };
        chain.restates.remove(&place);
        write_json(&self.chain_path(), &chain)
    }

    /// What the chain has yet to say again, as far as it lies here.
    pub fn unsaid(&self) -> Vec<Record> {
        let places = self.chain().map(|chain| chain.restates).unwrap_or_default();
        places.into_iter().filter_map(|(writer, number)| self.read(writer, number)).map(|(record, _)| record).collect()
    }
}

impl RunningLock {
    /// Forgets the start: its end is recorded.
    pub fn forget(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&files::read(path).ok()?).ok()
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    let mut bytes = serde_json::to_vec(value).expect("state has no map with odd keys");
    bytes.push(b'\n');
    files::write_atomic(path, &bytes, 0o600).map_err(|error| state_failure("write", path, &error))
}
