//! Simulated sites: stores in memory, hosts with their own state, and processes that live until they are stopped.
//!
//! Everything runs the use cases of the library. What a store holds is also read behind the library's back
//! ([`audit`]), so that a mistake in its own catalogue cannot hide itself.

pub(crate) mod asking;
pub(crate) mod audit;
pub(crate) mod bucket;
pub(crate) mod content;
pub(crate) mod graves;
pub(crate) mod keyring;
pub(crate) mod links;
pub(crate) mod logs;
pub(crate) mod random;

use crate::support::count_from;
use bucket::Bucket;
use content::{Database, Files};
use object_store::memory::InMemory;
use random::Rng;
use recoup::{
    core::{
        evidence::{Action, Control, Draft, HoldCause, HoldId, Verdict},
        failure::{Code, Failure},
        id::{RepositoryId, RunId, SnapshotId, SourceName},
        policy::Policy,
        result::{CopyResult, EvidenceResult, PrunedSource, RestoreResult, VerifyResult},
        target::{SnapshotName, Target},
    },
    format::{
        prune as prune_format,
        seal::{Identities, Recipients, new_identity},
        signature::{self, HostKey},
        signers::Signers,
    },
    ops::{
        backup::{self, Snapshot},
        copy::{self, CopyRequest},
        evidence::{Recorded, Recorder, journal::Journal, verify as evidence_verify},
        hold::{self, HoldRequest},
        host::{CatalogueKey, Host, Protected},
        progress::NoProgress,
        prune::{self, PruneRequest},
        restore::{self, RestoreRequest},
        state::SourceState,
        verify::{self, VerifyRequest},
    },
    repository::{Repository, evidence, head::Head, layout, recovery, vouch::Vouches},
    sources::Source,
    stores::{
        Store,
        fault::{Faults, Operations},
    },
    world::{self, ManualClock, SeededRandom, Stopwatch, World},
};
use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

/// What was done so far, for the report of a failure.
pub(crate) type Trace = Arc<Mutex<Vec<String>>>;

/// Runs what belongs to a seed. A failure tells what was done, and the line that replays it, which runs `test`.
pub(crate) fn replayable(seed: u64, test: &str, run: impl FnOnce(Trace)) {
    let trace = Trace::default();
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(trace.clone()))) else { return };
    let said = panic.downcast_ref::<String>().cloned();
    let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
    let trace = trace.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).join("\n  ");
    panic!("seed {seed}: {said}\n  {trace}\nreplay it with: RECOUP_TEST_SEED={seed} cargo nextest run {test}");
}

/// Runs the seeds, of so many as RECOUP_TEST_SEEDS says, that fall to one of the tests that share them.
pub(crate) fn simulate_part(simulate: fn(u64), part: u64, parts: u64) {
    let seeds = count_from("RECOUP_TEST_SEEDS", 300);
    (0..seeds).filter(|seed| seed % parts == part).for_each(simulate);
}

/// Runs the one seed that `RECOUP_TEST_SEED` names.
pub(crate) fn replay_named(simulate: fn(u64)) {
    if let Some(seed) = world::environment("RECOUP_TEST_SEED") {
        simulate(seed.parse().unwrap());
    }
}

/// Tests that share the seeds of a simulation.
macro_rules! seeds_in_parts {
    ($simulate:ident of $parts:literal: $($name:ident $part:literal)*) => {
        $(#[test]
        fn $name() {
            crate::simulation::simulate_part($simulate, $part, $parts);
        })*
    };
}
pub(crate) use seeds_in_parts;

/// The one protected source.
pub(crate) fn source_name() -> SourceName {
    "ledger".parse().unwrap()
}

/// The folder of the source on every store.
pub(crate) const FOLDER: &str = "sources/ledger/";

/// Keys of a custodian and of two hosts; made once, for making them is slow.
pub(crate) struct Keys {
    repository: RepositoryId,
    pub(crate) recipients: Recipients,
    identities: Arc<Identities>,
    hosts: Vec<(Arc<HostKey>, Arc<CatalogueKey>)>,
    signers: Signers,
}

impl Keys {
    /// What the custodian opens everything with.
    pub(crate) fn identities(&self) -> Arc<Identities> {
        self.identities.clone()
    }
}

/// The keys of every simulation.
pub(crate) fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let repository = RunId::from_random([7; 16]);
        let (identity, recipient) = new_identity("now");
        let principal = signature::principal(&source_name(), &repository);
        let mut signers = String::new();
        let mut hosts = Vec::new();
        for number in 0..2_u8 {
            let key = HostKey::generate([number + 1; 32], "simulated");
            signers.push_str(&key.signers_line(&principal, &[signature::INVENTORY, signature::LOG]));
            signers.push('\n');
            signers.push_str(&key.signers_line(&prune_format::principal(&repository), &[signature::PRUNE]));
            signers.push('\n');
            signers.push_str(&key.signers_line(&evidence::principal(&repository), &[signature::EVIDENCE]));
            signers.push('\n');
            let (text, public) = new_identity("now");
            let identities = Identities::parse(&text).unwrap();
            let recipients = Recipients::parse(&[public]).unwrap();
            hosts.push((Arc::new(key), Arc::new(CatalogueKey { identities, recipients, text })));
        }
        Keys {
            repository,
            recipients: Recipients::parse(&[recipient]).unwrap(),
            identities: Arc::new(Identities::parse(&identity).unwrap()),
            hosts,
            signers: Signers::parse(&signers).unwrap(),
        }
    })
}

/// The stores, as they are below every wrapper.
pub(crate) struct Site {
    pub(crate) backends: Vec<Arc<InMemory>>,
    /// The servers of those that are buckets.
    buckets: Vec<Option<Bucket>>,
}

/// The names of stores, by position.
pub(crate) const STORES: [&str; 3] = ["a", "b", "c"];

impl Site {
    /// So many stores with an empty repository.
    pub(crate) fn new(stores: usize) -> Self {
        let site = Site::over((0..stores).map(|_| Arc::new(InMemory::new())).collect());
        let created_at = "2026-11-22T09:00:00Z".parse().unwrap();
        let head = Head { format_version: 1, repository: keys().repository, created_at }.to_bytes();
        for store in 0..stores {
            site.put(store, layout::REPOSITORY, head.clone());
            for (name, content) in recovery::files() {
                site.put(store, name, content.as_bytes().to_vec());
            }
        }
        site
    }

    /// Stores with what the backends hold.
    pub(crate) fn over(backends: Vec<Arc<InMemory>>) -> Self {
        Site { buckets: vec![None; backends.len()], backends }
    }

    /// The same as `new`, and in a third of all cases some of the stores are buckets.
    pub(crate) fn with_some_buckets(stores: usize, rng: &mut Rng) -> Self {
        let mut site = Site::new(stores);
        if rng.percent(33) {
            for (backend, bucket) in site.backends.iter().zip(&mut site.buckets) {
                let seed = rng.next();
                *bucket = rng.percent(60).then(|| Bucket::new(backend.clone(), seed));
            }
        }
        site
    }

    /// What went wrong with the buckets' servers so far, and how often.
    pub(crate) fn mishaps(&self) -> Vec<String> {
        let of = |(bucket, name): (&Option<Bucket>, &str)| {
            bucket.as_ref().map(|bucket| format!("{name} is a bucket: {:?}", bucket.mishaps()))
        };
        self.buckets.iter().zip(STORES).filter_map(of).collect()
    }

    /// The same stores with their content, from now on apart and no buckets.
    pub(crate) fn fork(&self) -> Self {
        Site::over(self.backends.iter().map(|backend| Arc::new(backend.fork())).collect())
    }

    /// A store as a process opens it.
    fn store(&self, at: usize, faults: &Faults) -> Store {
        match &self.buckets[at] {
            Some(bucket) => bucket.store(STORES[at]).wrapped(|inner| faults.wrap(inner)),
            None => Store::over(STORES[at], format!("memory:{}", STORES[at]), faults.wrap(self.backends[at].clone())),
        }
    }
}

/// A host: its keys, its state directory, its clock.
pub(crate) struct Machine {
    number: usize,
    state: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) world: World,
}

impl Machine {
    /// Host `number` with nothing in its state; its random numbers depend on `seed`.
    pub(crate) fn new(number: usize, seed: &str) -> Self {
        let clock = ManualClock::new("2026-11-22T10:00:00Z".parse().unwrap());
        let world = World::new(clock.clone(), SeededRandom::new(&format!("{seed}/{number}")));
        Machine { number, state: tempfile::tempdir().unwrap(), clock, world }
    }

    /// The same host with a copy of its state; its random numbers depend on `seed`.
    pub(crate) fn fork(&self, seed: &str) -> Self {
        let fork = Machine::new(self.number, seed);
        copy_tree(self.state.path(), fork.state.path());
        fork
    }

    /// Everything local is lost.
    pub(crate) fn lose_state(&self) {
        fs::remove_dir_all(self.state.path()).unwrap();
        fs::create_dir(self.state.path()).unwrap();
    }

    /// A copy of the state, to be rolled back to.
    pub(crate) fn save_state(&self) -> tempfile::TempDir {
        let saved = tempfile::tempdir().unwrap();
        copy_tree(self.state.path(), saved.path());
        saved
    }

    /// Puts back an older state.
    pub(crate) fn roll_back_state(&self, saved: &tempfile::TempDir) {
        self.lose_state();
        copy_tree(saved.path(), self.state.path());
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state.path().join("sources").join("ledger")
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A running `recoup` on a host. Its operations are counted and can be stopped: then it is gone for good.
pub(crate) struct Process {
    pub(crate) host: Host,
    pub(crate) protected: Protected,
    /// One count over all stores.
    pub(crate) operations: Operations,
    pub(crate) faults: Vec<Faults>,
}

impl Process {
    /// A new process on `machine` over the site's stores, protecting `database`.
    pub(crate) fn new(site: &Site, machine: &Machine, database: &Database) -> Self {
        Process::protecting(site, machine, Arc::new(database.source.clone()))
    }

    /// The same for any source.
    pub(crate) fn protecting(site: &Site, machine: &Machine, source: Arc<dyn Source>) -> Self {
        let operations = Operations::new();
        let of_store = vec![operations.clone(); site.backends.len()];
        Process::counted(site, machine, source, operations, &of_store)
    }

    /// The same with a count for each store, so that one can be stopped alone.
    pub(crate) fn apart(site: &Site, machine: &Machine, database: &Database) -> (Self, Vec<Operations>) {
        let of_store: Vec<Operations> = site.backends.iter().map(|_| Operations::new()).collect();
        (Process::counted(site, machine, Arc::new(database.source.clone()), Operations::new(), &of_store), of_store)
    }

    fn counted(
        site: &Site,
        machine: &Machine,
        source: Arc<dyn Source>,
        operations: Operations,
        of_store: &[Operations],
    ) -> Self {
        let keys = keys();
        let mut faults = Vec::new();
        let mut stores = Vec::new();
        for (at, operations) in of_store.iter().enumerate() {
            let of_store = Faults::new(STORES[at], operations);
            stores.push(site.store(at, &of_store));
            faults.push(of_store);
        }
        let (key, catalogue_key) = &keys.hosts[machine.number];
        let host = Host {
            world: machine.world.clone(),
            repository: Repository {
                id: keys.repository,
                stores,
                signers: keys.signers.clone(),
                vouches: Vouches::default(),
            },
            state_dir: machine.state.path().to_owned(),
            key: key.clone(),
            recipients: keys.recipients.clone(),
            catalogue_key: Some(catalogue_key.clone()),
            compression_level: 1,
            spool_limit_bytes: 64 * 1024 * 1024,
            configuration: "# simulated\n".to_owned(),
        };
        let protected = Protected { name: source_name(), source, policy: Policy::default() };
        Process { host, protected, operations, faults }
    }

    /// Takes a snapshot.
    pub(crate) async fn backup(&self, full: bool) -> Result<Snapshot, Failure> {
        backup::backup(&self.host, &self.protected, full, &NoProgress).await
    }

    /// Verifies every byte.
    pub(crate) async fn verify(&self) -> Result<VerifyResult, Failure> {
        let known = BTreeMap::from([(source_name(), self.known())]);
        let request = VerifyRequest {
            all: true,
            known,
            state_dir: Some(self.host.state_dir.clone()),
            ..VerifyRequest::default()
        };
        verify::verify(&self.host.repository, &request, &NoProgress).await
    }

    fn known(&self) -> recoup::ops::state::Known {
        SourceState::peek(&self.host.source_state_dir(&source_name()), self.host.repository.id)
    }

    /// Brings the stores level and remembers what is complete, as the command does.
    pub(crate) async fn copy(&self) -> Result<CopyResult, Failure> {
        let known = BTreeMap::from([(source_name(), self.known())]);
        let request = CopyRequest { known, ..CopyRequest::default() };
        let copied = copy::copy(&self.host.repository, &request, &NoProgress).await?;
        let state = SourceState::open(self.host.source_state_dir(&source_name()), self.host.repository.id)?;
        for stores in copied.completed.values() {
            state.update_known(|known| {
                for (store, ids) in stores {
                    known.completed.entry(store.clone()).or_default().extend(ids);
                    known.damaged.remove(store);
                }
            })?;
        }
        Ok(copied.result)
    }

    /// The same process under a policy that keeps so many snapshots.
    pub(crate) fn keeping(mut self, last: u64) -> Self {
        self.protected.policy.keep_last = Some(last);
        self
    }

    /// Prunes, as the command with `--yes` does.
    pub(crate) async fn prune(&self, request: PruneRequest) -> Result<PrunedSource, Failure> {
        let prepared = prune::prepare(&self.host, &self.protected, request, true).await?;
        prune::execute(&self.host, &self.protected, prepared, &NoProgress).await
    }

    /// Holds a snapshot, as the command does.
    pub(crate) async fn hold(&self, id: SnapshotId) -> Result<HoldId, Failure> {
        self.hold_all(vec![SnapshotName::Id(id)]).await
    }

    /// Holds everything that the source has.
    pub(crate) async fn hold_everything(&self) -> Result<HoldId, Failure> {
        self.hold_all(Vec::new()).await
    }

    async fn hold_all(&self, snapshots: Vec<SnapshotName>) -> Result<HoldId, Failure> {
        let request = HoldRequest { source: source_name(), snapshots, cause: HoldCause::Operator };
        let held = hold::add(&self.host.repository, &self.recorder(), &self.host.world, &request).await?;
        Ok(held.holds[0].hold)
    }

    /// Releases a hold, as the command does.
    pub(crate) async fn release(&self, id: HoldId) -> Result<(), Failure> {
        let Host { repository, world, state_dir, .. } = &self.host;
        hold::release(repository, &self.recorder(), world, state_dir, id).await.map(drop)
    }

    /// Whether the control log is whole on every store, as the command says.
    pub(crate) async fn evidence(&self) -> EvidenceResult {
        let journal = Journal::new(&self.host.state_dir, self.host.repository.id);
        evidence_verify::verify(&self.host.repository, Some(&journal)).await
    }

    /// Leaves a record that says this, and ships it as far as the stores take it.
    pub(crate) fn record(&self, action: Action, control: Option<Control>) -> Recorded {
        let recorder = self.recorder();
        let draft = Draft { control, ..Draft::new(action, Verdict::Passed, self.host.world.now()) };
        let recorded = recorder.record(draft).unwrap();
        live(recorder.ship());
        recorded
    }

    pub(crate) fn recorder(&self) -> Recorder {
        let wanted = self.protected.policy.copies.required_stores(self.host.repository.stores.len()) as u64;
        Recorder::with_policies(&self.host, BTreeMap::new()).with_min_stores([(source_name(), wanted)].into())
    }

    /// Takes a snapshot as the command does, and leaves its evidence.
    pub(crate) async fn back_up_and_record(&self) -> Result<Snapshot, Failure> {
        let recorder = self.recorder();
        let taken = self.backup(false).await;
        // The command says so, and does no worse for it.
        let _ = recorder.record(Draft::new(Action::Backup, Verdict::Passed, self.host.world.now()));
        recorder.ship().await;
        taken
    }

    /// Restores into a new directory and reads back what came.
    pub(crate) async fn restore(&self, target: Target) -> Result<(RestoreResult, Files), Failure> {
        self.restore_with(keys().identities.clone(), target).await
    }

    /// The same with any identities.
    pub(crate) async fn restore_with(
        &self,
        identities: Arc<Identities>,
        target: Target,
    ) -> Result<(RestoreResult, Files), Failure> {
        let scratch = tempfile::tempdir().unwrap();
        let to = scratch.path().join("to");
        let request = RestoreRequest {
            copies: self.protected.policy.copies.clone(),
            ..RestoreRequest::new(source_name(), target, to.clone())
        };
        match restore::restore(&self.host.repository, identities, &request, &NoProgress).await {
            Ok(result) => Ok((result, content::read_tree(&to))),
            Err(failure) => {
                let left = if to.exists() { content::read_tree(&to) } else { Files::new() };
                assert!(left.is_empty(), "a failed restore left {:?}", left.keys());
                assert!(failure.code != Code::Internal, "{failure}");
                Err(failure)
            }
        }
    }

    /// Restores a snapshot; panics unless it comes back byte for byte.
    #[track_caller]
    pub(crate) fn expect_restored(&self, id: SnapshotId, expected: &Files) -> RestoreResult {
        match live(self.restore(Target::SnapshotId(id))) {
            Ok((result, files)) => {
                assert_eq!(result.snapshot, id);
                assert!(files == *expected, "{id} came back as {}", content::differences(&files, expected));
                result
            }
            Err(failure) => panic!("{id} is lost: {failure}"),
        }
    }
}

/// The life of one process: whatever it left running ends with it.
///
/// Time is simulated. A future that gets nowhere at all is a deadlock, and fails the test.
pub(crate) fn live<T>(life: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let value = runtime.block_on(async {
        let mut life = std::pin::pin!(life);
        let stopwatch = Stopwatch::start();
        loop {
            // The simulated time passes at once when nobody but a thread does anything: look at the real one too.
            match tokio::time::timeout(Duration::from_secs(86_400), &mut life).await {
                Ok(value) => return value,
                Err(_) => {
                    assert!(stopwatch.seconds() < 60.0, "an operation is stuck");
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        }
    });
    runtime.shutdown_background();
    value
}
