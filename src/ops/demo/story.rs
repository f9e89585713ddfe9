//! The story, in the order it happens: set up, snapshots, an altered log, disaster, recovery, healing, drill, report.

use super::{
    audit::{self, Totals},
    blocking,
    checks::{self, Check},
    ledger,
    log::ComplianceLog,
    proof,
    stage::{STORES, Stage, failed},
    summary::{Disaster, Healing, Phase, Report},
    traffic::{Acknowledged, Traffic},
    words::{number, pad, size},
};
use crate::{
    config::{self, Settings},
    core::{
        failure::{Code, Failure},
        id::{SnapshotId, SourceName},
        result::{
            CheckStatus, DemoResult, FindingId, Head, InitResult, Problem, RestoreResult, SnapshotEntry, Verdict,
        },
        target::{KnownHead, Target},
    },
    format,
    ops::{
        check,
        init::{self, InitRequest},
        open,
        progress::{Progress, Unit},
        restore::{self, RestoreRequest},
        runs,
    },
    repository::layout,
    world::{Stopwatch, World},
};
use std::{sync::Arc, time::Duration};

/// Postings of the ledger before the writer adds its own.
const POSTINGS: u64 = 200_000;
/// Lines of the compliance log at first, and how many come with every event of the story.
const LOG_LINES: u64 = 20_000;
const LOG_LINES_MORE: u64 = 500;
/// How long bets are placed between one event of the story and the next.
const INTERLUDE: Duration = Duration::from_millis(1_500);
/// What becomes of the stores; the third is left alone.
const DESTROYED: &str = STORES[0];
const DAMAGED: &str = STORES[1];

/// Plays it from beginning to end.
pub(super) async fn play(world: &World, stage: &Stage, progress: &Arc<dyn Progress>) -> Result<DemoResult, Failure> {
    let [source, audit] = ["ledger", "audit"].map(|name| name.parse().expect("it is a valid name"));
    Story { world, stage, progress, source, audit, phases: Vec::new() }.play().await
}

struct Story<'a> {
    world: &'a World,
    stage: &'a Stage,
    progress: &'a Arc<dyn Progress>,
    source: SourceName,
    audit: SourceName,
    phases: Vec<Phase>,
}

/// The snapshots, and what was acknowledged before the newest began.
struct Taken {
    snapshots: [SnapshotEntry; 2],
    head: Head,
    before: Acknowledged,
}

/// The log that was altered: which snapshot has it as it was, and whether it was caught.
struct Altered {
    before: Option<SnapshotId>,
    caught: Check,
}

/// What came back, and what was found when it was looked at.
struct Recovered {
    result: RestoreResult,
    totals: Totals,
    rto_seconds: f64,
    checks: Vec<Check>,
}

impl Story<'_> {
    async fn play(mut self) -> Result<DemoResult, Failure> {
        let began_at = self.world.now();
        self.progress.message(&format!("A disaster and the way back, in {}\n", self.stage.dir().display()));
        let (mut traffic, mut log) = self.begin_business().await?;
        let (init, settings) = self.found_repository().await?;
        let taken = self.take_snapshots(&settings, &mut traffic, &mut log).await?;
        let altered = self.alter_the_log(&settings, &log).await?;
        self.place_bets(&mut traffic).await?;
        let (disaster, acknowledged, clock) = self.strike(traffic, &taken).await?;
        let mut recovered = self.recover(&settings, &taken, &disaster, clock).await?;
        let at_disaster = self.compare(&taken, &acknowledged, &mut recovered).await?;
        recovered.checks.extend(self.recover_the_log(&settings, altered).await?);
        let (healing, healed) = self.heal(&settings).await?;
        recovered.checks.push(healed);
        let since = Stopwatch::start();
        let progress = self.progress.as_ref();
        let (drill, met) = proof::drill(self.world, self.stage, &settings, &self.source, progress).await?;
        recovered.checks.push(met);
        self.done("drill", since);
        let report = Report {
            began_at,
            init: &init,
            snapshots: &taken.snapshots,
            head: &taken.head,
            disaster: &disaster,
            at_disaster: &at_disaster,
            restore: &recovered.result,
            restored: &recovered.totals,
            rto_seconds: recovered.rto_seconds,
            checks: &recovered.checks,
            healing: &healing,
            drill: &drill,
            phases: &self.phases,
        };
        let mut result = report.publish(self.world, self.stage, &settings)?;
        let made = proof::report(self.world, self.stage, &settings, &self.source, self.progress.as_ref()).await?;
        if result.verdict == Verdict::Pass {
            result.verdict = made.verdict;
        }
        (result.report, result.signature) = (made.report, made.signature);
        Ok(result)
    }

    /// One line of the story, or two.
    fn tell(&self, label: &str, text: &str) {
        self.progress.message(&pad(label, text));
    }

    fn done(&mut self, phase: &str, since: Stopwatch) {
        self.phases.push(Phase { name: phase.to_owned(), seconds: since.seconds() });
    }

    /// The ledger, and the writer that does not stop until the disaster.
    async fn begin_business(&mut self) -> Result<(Traffic, ComplianceLog), Failure> {
        let since = Stopwatch::start();
        self.progress.begin("making a ledger", Some(POSTINGS), Unit::Items);
        self.stage.make(&self.stage.production())?;
        let (ledger, now) = (self.stage.ledger(), self.world.now());
        let seed = u64::from_le_bytes(self.world.random());
        let totals = blocking({
            let (ledger, progress) = (ledger.clone(), self.progress.clone());
            move || ledger::create_telling(&ledger, POSTINGS, seed, now, |made| progress.advance(made))
        })
        .await?;
        let bytes = ledger.metadata().map_or(0, |metadata| metadata.len());
        self.tell(
            "ledger",
            &format!(
                "{} postings in {} transfers, {}\na writer places and settles bets from now on, whatever else happens",
                number(totals.postings),
                number(totals.transfers),
                size(bytes)
            ),
        );
        self.stage.make(&self.stage.audit())?;
        let log = ComplianceLog::create(&self.stage.audit(), LOG_LINES, now)?;
        self.tell("audit log", &format!("{} lines of who did what", number(log.lines())));
        self.done("make the ledger and the log", since);
        Ok((Traffic::start(ledger, seed ^ 1, self.world.clone())?, log))
    }

    /// As `recoup init` does it.
    async fn found_repository(&mut self) -> Result<(InitResult, Settings), Failure> {
        let since = Stopwatch::start();
        self.progress.begin("founding the repository", None, Unit::Items);
        let misread = |error: String| Failure::internal("the demonstration's configuration is wrong").cause(error);
        let store = |name: &&str| config::parse_store_argument(&format!("{name}={}", self.stage.store_url(name)));
        let policy = self.stage.policy("ledger");
        self.stage.make(crate::world::files::parent(&policy))?;
        crate::world::files::write_new(&policy, proof::LEDGER_POLICY.as_bytes(), 0o644)
            .map_err(|error| failed("write", &policy, &error))?;
        let ledger = format!("{}=sqlite:{}", self.source, self.stage.ledger().display());
        let audit = format!("{}=log:{}", self.audit, self.stage.audit().display());
        let mut sources = Vec::new();
        for source in [ledger, audit] {
            sources.push(config::parse_source_argument(&source).map_err(misread)?);
        }
        "ledger".clone_into(&mut sources[0].policy);
        let request = InitRequest {
            config: self.stage.config(),
            stores: STORES.iter().map(store).collect::<Result<_, _>>().map_err(misread)?,
            sources,
            recipients: Vec::new(),
            new_identity: Some(self.stage.identity()),
        };
        let result = init::init(self.world, &request).await?;
        let settings = config::load(&self.stage.config())?;
        self.tell("keys", "the host's key signs snapshots; only the custodian's identity can read them");
        self.done("found the repository", since);
        Ok((result, settings))
    }

    /// Lets the writer go on for a while.
    async fn place_bets(&self, traffic: &mut Traffic) -> Result<(), Failure> {
        self.progress.begin("the writer places bets", None, Unit::Items);
        traffic.go_on_for(INTERLUDE).await
    }

    /// A full snapshot, more bets, an incremental one.
    async fn take_snapshots(
        &mut self,
        settings: &Settings,
        traffic: &mut Traffic,
        log: &mut ComplianceLog,
    ) -> Result<Taken, Failure> {
        traffic.go_on_for(Duration::ZERO).await?;
        let first = newest(traffic)?;
        let since = Stopwatch::start();
        let (full, _) = self.backup(settings, &self.source, true).await?;
        self.backup(settings, &self.audit, true).await?;
        let stored = format!("{} sealed into {}", size(full.bytes_raw), size(full.bytes_stored));
        self.tell(&format!("snapshot {}", full.seq), &format!("full: {stored}, on all three stores"));
        self.done("full snapshot", since);

        self.place_bets(traffic).await?;
        log.append(LOG_LINES_MORE, self.world.now())?;
        let before = newest(traffic)?;
        let since = Stopwatch::start();
        let (incremental, head) = self.backup(settings, &self.source, false).await?;
        let later = number((before.last_transfer - first.last_transfer).unsigned_abs());
        let stored = format!("{} more transfers, {} new", later, size(incremental.bytes_stored));
        self.tell(&format!("snapshot {}", incremental.seq), &format!("incremental: {stored}, on all three stores"));
        let (tail, _) = self.backup(settings, &self.audit, false).await?;
        let stored = format!("{} more lines, {} new", number(LOG_LINES_MORE), size(tail.bytes_stored));
        self.tell("audit log", &format!("only its tail is shipped: {stored}"));
        self.done("incremental snapshots", since);
        Ok(Taken { snapshots: [full, incremental], head, before })
    }

    /// As `recoup backup` does it.
    async fn backup(
        &self,
        settings: &Settings,
        source: &SourceName,
        full: bool,
    ) -> Result<(SnapshotEntry, Head), Failure> {
        let sources = std::slice::from_ref(source);
        let mut result = runs::backup_sources(settings, self.world, sources, full, self.progress.as_ref()).await?;
        let outcome = result.sources.pop().ok_or_else(|| Failure::internal("a backup has an outcome"))?;
        match (result.snapshots.pop(), outcome.head, outcome.exit_code) {
            (Some(snapshot), Some(head), Code::Done) => Ok((snapshot, head)),
            (_, _, code) => Err(outcome.failure.unwrap_or_else(|| Failure::new(code, outcome.message))),
        }
    }

    /// Somebody rewrites a line of the compliance log; the next backup finds it.
    async fn alter_the_log(&mut self, settings: &Settings, log: &ComplianceLog) -> Result<Altered, Failure> {
        let since = Stopwatch::start();
        let evidence = self.stage.audit_evidence();
        self.stage.make(crate::world::files::parent(&evidence))?;
        std::fs::copy(log.file(), &evidence).map_err(|error| failed("keep", &evidence, &error))?;
        let tampering = log.tamper()?;
        let sources = std::slice::from_ref(&self.audit);
        let mut result = runs::backup_sources(settings, self.world, sources, false, self.progress.as_ref()).await?;
        let outcome = result.sources.pop().ok_or_else(|| Failure::internal("a backup has an outcome"))?;
        self.tell(
            "tampering",
            &format!(
                "line {} of the audit log is rewritten, {} to {};\nthe next backup ends with exit {}: {}",
                number(tampering.line as u64),
                action(&tampering.was),
                action(&tampering.is_now),
                outcome.exit_code.number(),
                outcome.alterations.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ),
        );
        let checked = check::check(settings, self.world, sources).await?;
        let said = checked.findings.iter().any(|finding| finding.id == FindingId::LogAltered);
        let found = format!("exit {}, check {}", outcome.exit_code.number(), checked.status);
        let caught = Check::new(
            "the altered log was caught, and both versions are held",
            Verdict::FailIntegrity,
            outcome.exit_code == Code::LogAltered && said,
            "exit 18, check critical".to_owned(),
            found,
        );
        self.done("catch the altered log", since);
        Ok(Altered { before: outcome.altered_since, caught })
    }

    /// Restores the compliance log as it was before somebody altered it.
    async fn recover_the_log(&mut self, settings: &Settings, altered: Altered) -> Result<Vec<Check>, Failure> {
        let since = Stopwatch::start();
        let before = altered.before.ok_or_else(|| Failure::internal("the altered log has no snapshot before"))?;
        let identity = self.stage.identity();
        let identities = open::read_identities(&config::IdentityInput::File(identity.clone())).await?;
        let repository = open::open_bare(&settings.stores, &config::signers_beside(&identity)).await?;
        let (target, to) = (Target::SnapshotId(before), self.stage.restored_audit());
        let request = RestoreRequest::new(self.audit.clone(), target, to.clone());
        restore::restore(&repository, Arc::new(identities), &request, self.progress.as_ref()).await?;
        let digest = |path: &std::path::Path| {
            std::fs::read(path).map(|bytes| format::sha256(&bytes)).map_err(|error| failed("read", path, &error))
        };
        let (expected, actual) = (digest(&self.stage.audit_evidence())?, digest(&to.join("audit.log"))?);
        let same = Check::equal(
            "the audit log came back as it was before it was altered",
            Verdict::FailIntegrity,
            expected.to_string(),
            actual.to_string(),
        );
        self.tell("audit log", &format!("restored as snapshot {} has it: before it was altered", before.seq));
        self.done("restore the log", since);
        Ok(vec![altered.caught, same])
    }

    /// Stops the writer, keeps a copy to measure by, and then destroys. The clock of the recovery starts there.
    async fn strike(
        &mut self,
        traffic: Traffic,
        taken: &Taken,
    ) -> Result<(Disaster, Vec<Acknowledged>, Stopwatch), Failure> {
        let acknowledged = blocking(move || traffic.stop()).await?;
        let declared_at = self.world.now();
        let newest = *acknowledged.last().ok_or_else(|| Failure::internal("the writer committed nothing"))?;
        self.progress.begin("keeping a copy to measure by", None, Unit::Items);
        self.stage.make(crate::world::files::parent(&self.stage.evidence()))?;
        let (ledger, evidence) = (self.stage.ledger(), self.stage.evidence());
        blocking(move || audit::copy(&ledger, &evidence)).await?;

        let clock = Stopwatch::start();
        // The largest of the first snapshot: much of it is needed still.
        let run = layout::run_object(taken.snapshots[0].run, "");
        let folder = format!("{}{run}", layout::source_folder(&self.source));
        let object = format!("{folder}{}", self.stage.largest_file(&self.stage.store(DAMAGED).join(&folder))?);
        self.stage.remove(&self.stage.production())?;
        self.stage.remove(&self.stage.store(DESTROYED))?;
        self.stage.flip_a_bit(&self.stage.store(DAMAGED).join(&object))?;
        let moment = declared_at.as_datetime().format("%H:%M:%S");
        let text = format!(
            "{moment} UTC: production is deleted, {DESTROYED} is deleted,\nand in {DAMAGED} one bit flips in an object that the restore needs"
        );
        self.progress.message("");
        self.tell("disaster", &text);
        self.done("destroy", clock);
        let disaster = Disaster {
            declared_at,
            last_transfer_acknowledged: newest.last_transfer,
            last_transfer_acknowledged_at: newest.committed_at,
            deleted_database: "production/ledger.db".to_owned(),
            deleted_store: DESTROYED.to_owned(),
            damaged_store: DAMAGED.to_owned(),
            damaged_object: object,
        };
        Ok((disaster, acknowledged, clock))
    }

    /// As `recoup restore --check` does it on a bare host: the custodian's files, and what is left of the stores.
    async fn recover(
        &mut self,
        settings: &Settings,
        taken: &Taken,
        disaster: &Disaster,
        clock: Stopwatch,
    ) -> Result<Recovered, Failure> {
        let since = Stopwatch::start();
        let identity = self.stage.identity();
        let identities = open::read_identities(&config::IdentityInput::File(identity.clone())).await?;
        let repository = open::open_bare(&settings.stores, &config::signers_beside(&identity)).await?;
        let head = KnownHead { id: taken.head.snapshot, sha256: Some(taken.head.sha256) };
        let request = RestoreRequest {
            head: Some(head),
            check: true,
            ..RestoreRequest::new(self.source.clone(), Target::Latest, self.stage.restored())
        };
        let result = restore::restore(&repository, Arc::new(identities), &request, self.progress.as_ref()).await?;
        self.done("restore", since);
        self.tell(
            "restore",
            &format!(
                "snapshot {}, {}, with the custodian's identity and what is left of the stores;\nevery block is right",
                result.snapshot.seq,
                size(result.bytes)
            ),
        );
        let since = Stopwatch::start();
        self.progress.begin("checking the ledger", None, Unit::Items);
        let ledger = self.stage.restored_ledger();
        let (double_entry, totals) =
            blocking(move || Ok((checks::double_entry(&ledger)?, audit::totals(&ledger)?))).await?;
        let rto_seconds = clock.seconds();
        self.done("check", since);

        let own = result.checks.iter().cloned();
        let mut checks: Vec<Check> =
            own.map(|result| Check { result, otherwise: Verdict::FailIntegrity }).chain(double_entry).collect();
        checks.push(newest_came_back(taken, &result));
        checks.push(went_round(disaster, &result));
        Ok(Recovered { result, totals, rto_seconds, checks })
    }

    /// Compares what came back with what was acknowledged, and with the copy that was kept; the clock is off.
    async fn compare(
        &mut self,
        taken: &Taken,
        acknowledged: &[Acknowledged],
        recovered: &mut Recovered,
    ) -> Result<Totals, Failure> {
        let since = Stopwatch::start();
        self.progress.begin("comparing the ledger with the copy", None, Unit::Items);
        let (restored, evidence) = (self.stage.restored_ledger(), self.stage.evidence());
        let (rows, at_disaster) =
            blocking(move || Ok((checks::same_rows(&restored, &evidence)?, audit::totals(&evidence)?))).await?;
        recovered.checks.extend(checks::completeness(&recovered.totals, taken.before, acknowledged));
        recovered.checks.push(rows);
        self.done("compare", since);
        let failed: Vec<&Check> =
            recovered.checks.iter().filter(|check| check.result.status == CheckStatus::Failed).collect();
        let text = format!(
            "{} postings: the database is sound, every transfer balances, every\nbalance adds up, every row is as it was written",
            number(recovered.totals.postings)
        );
        if failed.is_empty() {
            self.tell("checks", &text);
        }
        for Check { result, .. } in failed {
            let found = format!("FAILED: {}\nexpected {}, found {}", result.name, result.expected, result.actual);
            self.tell("check", &found);
        }
        Ok(at_disaster)
    }

    /// As `recoup copy` and `recoup verify --all` do it, with an empty directory where the destroyed store was.
    async fn heal(&mut self, settings: &Settings) -> Result<(Healing, Check), Failure> {
        let since = Stopwatch::start();
        self.stage.make(&self.stage.store(DESTROYED))?;
        let copied = runs::copy_stores(settings, self.world, Vec::new(), false, false, self.progress.as_ref()).await?;
        self.done("heal the stores", since);
        let since = Stopwatch::start();
        let repository = open::open_repository(settings)?;
        let verified =
            runs::verify_stores(&repository, Some(settings), Vec::new(), true, self.progress.as_ref()).await?;
        self.done("verify the stores", since);
        let of = |name: &str| copied.stores.iter().find(|store| store.store == name);
        let seeded = of(DESTROYED).map_or(0, |store| store.copied_objects);
        let healed = of(DAMAGED).map_or(0, |store| store.healed);
        let found = verified.findings.len();
        let expected = "1 object healed, copy ok, verify ok, 0 findings".to_owned();
        let objects = if healed == 1 { "object" } else { "objects" };
        let actual =
            format!("{healed} {objects} healed, copy {}, verify {}, {found} findings", copied.status, verified.status);
        let check = Check::equal("every store is whole again", Verdict::FailCompleteness, expected, actual);
        if check.result.status == CheckStatus::Passed {
            let text = format!(
                "{DESTROYED} is filled again ({seeded} objects), the damaged one in {DAMAGED} is replaced;\nevery byte of the three stores was read again and is right ({})",
                size(verified.bytes)
            );
            self.tell("heal", &text);
        } else {
            self.tell("heal", &format!("FAILED: {}", check.result.actual));
        }
        let healing =
            Healing { stores: copied.stores, verified_objects: verified.objects, verified_bytes: verified.bytes };
        Ok((healing, check))
    }
}

/// The word of a line that was rewritten.
fn action(line: &str) -> &str {
    line.split(' ').nth(3).unwrap_or(line)
}

fn newest(traffic: &Traffic) -> Result<Acknowledged, Failure> {
    traffic.newest().ok_or_else(|| Failure::internal("the writer committed nothing"))
}

fn newest_came_back(taken: &Taken, result: &RestoreResult) -> Check {
    let (expected, actual) = (taken.head.snapshot.to_string(), result.snapshot.to_string());
    Check::equal("the newest snapshot was restored", Verdict::FailCompleteness, expected, actual)
}

/// Without it the demonstration would not have shown what it says.
fn went_round(disaster: &Disaster, result: &RestoreResult) -> Check {
    let met = |problem: Problem| format!("{} {} is {problem}", disaster.damaged_store, disaster.damaged_object);
    let found = result
        .went_round
        .iter()
        .find(|round| round.store == disaster.damaged_store && round.object == disaster.damaged_object);
    let actual = found.map_or_else(|| "it was not met".to_owned(), |round| met(round.problem));
    Check::equal("the restore met the damage and went round it", Verdict::Inconclusive, met(Problem::Damaged), actual)
}
