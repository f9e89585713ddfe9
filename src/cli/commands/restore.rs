//! `recoup restore`.

use crate::core::result::{PlanResult, PlanSchema};
use crate::ops::open::open_access;
use crate::ops::{
    off_limits, open,
    restore::{self, LogAccess, RestoreRequest, ServerWishes, Standby, TablespacePlace, in_command},
    runs,
};
use crate::world;
use crate::{
    cli::{Context, Help, Job, arguments::StoreArguments, human},
    config::{self, Access, IdentityInput},
    core::{
        failure::{Code, Failure},
        id::SourceName,
        result::{CheckStatus, Outcome, RestoreResult},
        target::{KnownHead, Target, Timeline},
    },
};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "restore",
    description: "Restores a source into a new or empty directory. What an interrupted restore left in it is used. Every object is taken from whichever store still has \
        it intact, every block is compared with its recorded digest, and only snapshots that a trusted signer \
        signed are considered.\n\
        A target is latest (the newest durable point), snapshot:NUMBER, or a time with an offset such as \
        2026-11-22T09:15:00Z; a time means the newest snapshot whose read began at or before it, also after the last \
        one, and how long before is said. If nothing meets the target, as before the first snapshot, nothing is \
        restored in its place; the nearest points are named.\n\
        A postgres source is restored to exactly the time: the directory is a data directory, and pg_ctl start is the \
        next step: the server replays its log up to the target and promotes itself. That all of the log is there is \
        proven before anything is written. Besides, lsn:16/B374D848, xid:NUMBER, name:RESTORE_POINT and immediate are \
        targets there, and snapshot:NUMBER is the moment at which that snapshot is consistent.\n\
        Whether the server would start here is found out first: the version of bin_dir, block sizes, architecture, \
        preload libraries, and the libraries that texts were sorted by. What keeps it from starting is refused, unless \
        --confirm names the source again; the rest is a warning. --standby makes a standby, --tablespace puts a \
        tablespace elsewhere, and --delta restores over the files of the same system and fetches only what differs: \
        until it has run to its end no server starts on them, and the same command goes on.\n\
        On a bare host the custodian's files and one store are enough: --store names the store, and the \
        signers are read from the identity's file with .signers.",
    examples: &[
        ("the newest point", "recoup restore ledger --to /data/restored --identity /media/key/custodian.age"),
        (
            "as it was this morning",
            "recoup restore ledger --to /data/restored --identity /media/key/custodian.age \\\n      --target 2026-11-22T09:15:00+01:00",
        ),
        (
            "a standby of a running server",
            "recoup restore ledger --to /data/standby --identity /media/key/custodian.age \\\n      --standby --primary-conninfo 'host=db1 user=replicator'",
        ),
        (
            "a tablespace on another disk",
            "recoup restore ledger --to /data/restored --identity /media/key/custodian.age \\\n      --tablespace fast=/ssd/ledger",
        ),
        (
            "back to this morning, over the files of the stopped server",
            "recoup restore ledger --to /var/lib/postgresql/15/main --identity /media/key/custodian.age \\\n      --target 2026-11-22T09:15:00+01:00 --delta --confirm=ledger",
        ),
        (
            "on a bare host, from one store, with the database's own checks",
            "recoup restore ledger --store file:///mnt/a --identity /media/key/custodian.age \\\n      --to /data/restored --check",
        ),
    ],
    exit_codes: &[
        (0, "restored, complete and checked"),
        (1, "restored, complete and checked; damage in a store was gone round, or a server needs a look (it is named)"),
        (2, "failed, or a check of --check did not hold"),
        (10, "the stores hold no repository"),
        (12, "no usable identity"),
        (14, "no store answered"),
        (15, "stored data is damaged on every store"),
        (16, "no recovery point meets the target"),
        (
            17,
            "refused: the directory is not empty, or a server runs on it, or (--delta) it is not of the same system; \
             nobody trusted signed it; too little space; the server would not start here, or its replay would create a \
             tablespace where something is",
        ),
    ],
};

/// What `restore` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Restore this source
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// Restore into this directory, which must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Restore this point: latest, snapshot:NUMBER, or a time with an offset
    #[arg(long, value_name = "TARGET", default_value = "latest")]
    pub target: Target,
    /// Read snapshots with the identity in this file [default: $RECOUP_IDENTITY_FILE]
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Which stores to read.
    #[command(flatten)]
    pub stores: StoreArguments,
    /// Refuse stores that show neither this snapshot, as `backup` printed it, nor one that descends from it
    #[arg(long, value_name = "ID[:SHA256]")]
    pub head: Option<KnownHead>,
    /// Run the database's own checks and the policy's assertions on what was restored
    #[arg(long)]
    pub check: bool,
    /// Open the log that is to be replayed into the directory, so that the server needs neither key nor store
    #[arg(long)]
    pub fetch_log: bool,
    /// Make a standby of it, which follows its primary and the archive, instead of a server of its own
    #[arg(long, conflicts_with = "check")]
    pub standby: bool,
    /// Have the standby stream from its primary, which this connection string without a password leads to
    #[arg(long, value_name = "CONNINFO", requires = "standby")]
    pub primary_conninfo: Option<String>,
    /// Put this tablespace into a new or empty directory outside of --to, instead of into --to; may be repeated
    #[arg(long, value_name = "NAME_OR_OID=DIR", value_parser = tablespace)]
    pub tablespace: Vec<TablespacePlace>,
    /// Restore over the files of a stopped server of the same system, and fetch only what differs; needs --confirm
    #[arg(long)]
    pub delta: bool,
    /// Follow the log along this timeline: latest (the newest that leads to the target), current (the snapshot's own), or
    /// its number
    #[arg(long, value_name = "TIMELINE", default_value = "latest", conflicts_with = "standby")]
    pub timeline: Timeline,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do what is refused for safety without this; name the source again
    #[arg(long, value_name = "SOURCE")]
    pub confirm: Option<SourceName>,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let access = context.access(&arguments.stores, arguments.identity.as_deref())?;
    let identity = config::find_identity(arguments.identity.as_deref())?;
    let (outcome, notes) = context.run(async |job| Ok(perform(arguments, &access, &identity, job).await))?;
    if outcome.is_err() {
        context.output().notes(&notes);
    }
    match outcome? {
        Outcome::Planned(plan) => {
            context.output().plan(&plan)?;
            Ok(Code::Done)
        }
        Outcome::Done(result) => {
            context.output().summary(&result, text)?;
            context.output().remarks(&result.remarks);
            context.output().notes(&result.notes);
            context.output().notes(&notes);
            report_trouble(&result, context);
            Ok(result.code())
        }
    }
}

/// Restores, or plans it. Returns with it what the operator should know of its evidence.
async fn perform(
    arguments: &Arguments,
    access: &Access,
    identity: &IdentityInput,
    job: Job,
) -> (Result<Outcome<RestoreResult>, Failure>, Vec<String>) {
    let prepared = job.until_cancelled(async {
        let identities = open::read_identities(identity).await?;
        let repository = open_access(access).await?;
        let knowledge = match access.settings() {
            Some(settings) => {
                let directories = arguments.tablespace.iter().map(|place| (place.directory.clone(), "--tablespace"));
                for (directory, flag) in directories.chain([(world::absolute(&arguments.to), "--to")]) {
                    off_limits::refuse(&directory, settings, Some(&arguments.source), flag)?;
                }
                runs::before_restore(settings, &arguments.source, &arguments.target, arguments.head.as_ref())?
            }
            None => runs::BeforeRestore::on_a_bare_host(&repository),
        };
        let remarks = knowledge.remarks.clone();
        Ok((identities, repository, request(arguments, knowledge), remarks))
    });
    let (identities, repository, mut request, remarks) = match prepared.await {
        Ok(prepared) => prepared,
        Err(failure) => return (Err(failure), Vec::new()),
    };
    let identities = Arc::new(identities);
    request.log_access = log_access(arguments, access, identity);
    request.log_variables = open::credential_variables(access.stores());
    if arguments.dry_run {
        request.notes.extend(remarks);
        let planned = job.until_cancelled(restore::plan(&repository, &identities, &request)).await;
        return (planned.map(|plan| Outcome::Planned(plan_result(&plan, &request))), Vec::new());
    }
    let record = restore::evidence::begin(access.settings(), &job.world, &request);
    let restoring = restore::restore(&repository, identities, &request, job.progress.as_ref());
    let result = job.until_cancelled(restoring).await.map(|result| RestoreResult { remarks, ..result });
    let notes = record.end(&result).await;
    (result.map(Outcome::Done), notes)
}

/// What a server's restore_command will be. It cannot name an identity that a command prints.
fn log_access(arguments: &Arguments, access: &Access, identity: &IdentityInput) -> LogAccess {
    let (IdentityInput::File(identity), false, Some(program)) = (identity, arguments.fetch_log, world::program_path())
    else {
        return LogAccess::Beforehand;
    };
    let path = |path: &Path| in_command(world::absolute(path).display());
    let mut words = vec![path(&program)];
    match access {
        Access::Configured(settings) => words.extend(["--config".to_owned(), path(&settings.file)]),
        Access::Bare { .. } => {}
    }
    words.extend(["archive fetch".to_owned(), arguments.source.to_string(), "%f %p --identity".to_owned()]);
    words.push(path(identity));
    if let Access::Bare { stores, signers } = access {
        words.extend(stores.iter().map(|store| format!("--store {}", in_command(store.argument()))));
        words.extend(["--signers".to_owned(), path(signers)]);
    }
    LogAccess::Command(words.join(" "))
}

fn request(arguments: &Arguments, knowledge: runs::BeforeRestore) -> RestoreRequest {
    RestoreRequest {
        head: arguments.head,
        known_head: knowledge.head,
        copies: knowledge.copies,
        check: arguments.check,
        assertions: knowledge.assertions,
        check_options: knowledge.check_options,
        notes: knowledge.notes,
        server: wishes(arguments),
        confirmed: arguments.confirm.as_ref() == Some(&arguments.source),
        ..RestoreRequest::new(arguments.source.clone(), arguments.target.clone(), world::absolute(&arguments.to))
    }
}

fn wishes(arguments: &Arguments) -> ServerWishes {
    let primary_conninfo = arguments.primary_conninfo.clone();
    ServerWishes {
        standby: arguments.standby.then_some(Standby { primary_conninfo }),
        tablespaces: arguments.tablespace.clone(),
        delta: arguments.delta,
        timeline: arguments.timeline,
    }
}

fn tablespace(text: &str) -> Result<TablespacePlace, String> {
    match text.split_once('=') {
        Some((tablespace, directory)) if !tablespace.is_empty() && !directory.is_empty() => {
            Ok(TablespacePlace { tablespace: tablespace.to_owned(), directory: world::absolute(Path::new(directory)) })
        }
        _ => Err("it is not NAME_OR_OID=DIR, such as fast=/ssd/ledger".to_owned()),
    }
}

fn plan_result(plan: &restore::RestorePlan, request: &RestoreRequest) -> PlanResult {
    let mut steps = vec![
        format!("take snapshot {} of {}", plan.snapshot, request.source),
        format!("fetch {} from the stores that have them intact", human::count(plan.packs, "pack")),
        format!("write {} ({}) to {}", human::count(plan.files, "file"), human::size(plan.bytes), request.to.display()),
    ];
    steps.extend(plan.notes.iter().map(|note| format!("note: {note}")));
    PlanResult { schema: PlanSchema, command: "restore".to_owned(), steps }
}

/// Damage that was gone round, and checks that did not hold.
fn report_trouble(result: &RestoreResult, context: &Context) {
    for round in &result.went_round {
        let line = format!("store {}: {} is {}; taken from another store", round.store, round.object, round.problem);
        context.output().warning(&line);
    }
    for warning in &result.warnings {
        context.output().warning(warning);
    }
    for check in result.checks.iter().filter(|check| check.status == CheckStatus::Failed) {
        let line = format!("check {:?} did not hold: expected {}, found {}", check.name, check.expected, check.actual);
        context.output().warning(&line);
    }
    if !result.went_round.is_empty() {
        context.output().next_step("recoup copy");
    }
}

fn text(result: &RestoreResult) -> String {
    let mut text = format!(
        "restored {} to {}\n  snapshot {}, made {}\n  position {}\n  {}, {}, every block checked\n",
        result.source,
        result.directory,
        result.snapshot,
        human::moment(result.created_at),
        human::line(&result.position.to_string()),
        human::count(result.files, "file"),
        human::size(result.bytes),
    );
    for check in &result.checks {
        let status = if check.status == CheckStatus::Passed { "passed" } else { "FAILED" };
        text.push_str(&format!("  {status}  {}\n", human::line(&check.name)));
    }
    text
}
