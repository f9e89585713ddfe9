//! `recoup archive`: what a server's archive_command and restore_command call.

use crate::{
    cli::{Context, Help, Job, arguments::StoreArguments, usage_failure},
    config::{self, Access, IdentityInput, Settings},
    core::{
        failure::{Code, Failure},
        id::SourceName,
        log::LogFile,
        policy::Copies,
        time::parse_duration,
    },
    ops::{
        archive::{
            self, FetchRequest, Fetched, FollowRequest, OpenRequest, Opened, PushRequest, Pushed, SlotName, Terms,
        },
        evidence::Recorder,
        open::{self, open_access},
        runs,
    },
};
use clap::{Args, Subcommand};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "archive",
    description: "Keeps the write-ahead log of a PostgreSQL source on the stores, sealed like snapshots, and gives it \
        back to a server that recovers. The commands are made for archive_command and restore_command: their exit \
        codes are what PostgreSQL acts upon.",
    examples: &[
        ("in postgresql.conf", "archive_command = 'recoup archive push ledger %p'"),
        (
            "in a restored cluster",
            "restore_command = 'recoup archive fetch ledger %f %p --identity /media/key/custodian.age'",
        ),
    ],
    exit_codes: &[(0, "done"), (64, "no command was given")],
};

/// Help beyond the flags of `push`.
pub const HELP_PUSH: Help = Help {
    command: "archive push",
    description: "Archives one file of the write-ahead log: a segment, a .partial, a .history or a .backup file. It ends \
        with 0 only when as many stores as the policy wants hold the file on stable storage. A store that is slow or \
        gone is not waited for once enough others have it; copy brings it level later.\n\
        Segments that wait in archive_status are archived along with the one that was asked for, up to 64 under one \
        signed record, so that a backlog drains fast. A file that was archived before is not stored again while \
        the stores hold it: with the same content the answer is 0, with another content it is refused, and what is \
        stored is untouched. Where a prune has taken it away, it is stored again if this host knows that it is the same; \
        else a segment before later ones of its timeline is refused, see recoup-source-postgres(7).\n\
        A file of a server with another system identifier is refused until recoup archive open says that the log is \
        that server's now.",
    examples: &[("in postgresql.conf", "archive_command = 'recoup archive push ledger %p'")],
    exit_codes: &[
        (0, "archived: the stores that the policy wants hold it"),
        (2, "failed, or interrupted"),
        (11, "another push of the same source is running"),
        (12, "no usable key"),
        (13, "the file cannot be read, or is not what its name says"),
        (14, "too few stores took it"),
        (17, "it is of another system, or was archived before with other content"),
        (64, "there is no such source, or the path names no file of the log"),
        (78, "the configuration is wrong"),
    ],
};

/// Help beyond the flags of `fetch`.
pub const HELP_FETCH: Help = Help {
    command: "archive fetch",
    description: "Gives a recovering server the file that it asks for, checked, whole or not at all, and fetches the \
        next segments ahead into recoup-prefetch beside the server's pg_wal.\n\
        PostgreSQL takes every exit code up to 125 for the end of the log, and would end its recovery there. So 1 is \
        the answer only where it is certain: past the end of the plan that a restore made, or, without a plan, when \
        so many stores say that there is no such file that the others cannot make it durable. Whatever else goes \
        wrong is 200: the server stops, or asks again, and loses nothing.\n\
        Where a segment is missing and later ones of its timeline are there, the log has a gap, and a server that ends its \
        recovery where the log ends is not told that it ends: recoup restore to a time before the gap does so on purpose.\n\
        The last segment of a log may be there only as its beginning: a .partial, or the pieces that archive follow \
        ships. It is given, with nothing behind it, by a plan, and without one to a server that ends its recovery where \
        the log ends: recovery.signal is in its data directory, and standby.signal is not. A standby is told that \
        there is no such segment, for it must get it whole.",
    examples: &[(
        "in postgresql.conf of a standby",
        "restore_command = 'recoup archive fetch ledger %f %p --identity /media/key/custodian.age'",
    )],
    exit_codes: &[
        (0, "the file is where the server wants it"),
        (1, "there certainly is no such file, or it is past the end of the plan"),
        (200, "anything else, bad usage and configuration included"),
    ],
};

/// Help beyond the flags of `follow`.
pub const HELP_FOLLOW: Help = Help {
    command: "archive follow",
    description: "Receives the log of a PostgreSQL server while it is written, through a replication slot and with the \
        server's own pg_receivewal, and ships it: each segment when it is finished, as archive push does, and of the one \
        that is being written every few seconds what is new. So what was committed is in the stores within seconds, on \
        a quiet server, too, and a restore has it.\n\
        It runs until SIGTERM or SIGINT, for a service manager to keep alive. A server that goes away and stores that \
        fail are tried again, and said once. Where the stores fall behind, no more is received, and the server keeps its \
        log for the slot; so a server without max_slot_wal_keep_size is refused. A slot from which the server has \
        removed log is a gap: it ends with 17, and says how to go on.\n\
        archive_command may ship the same log at the same time: what is stored once is not stored again.",
    examples: &[
        ("the first time: make the slot", "recoup archive follow ledger --create-slot"),
        ("with at most 5 seconds to lose", "recoup archive follow ledger --every 5s"),
    ],
    exit_codes: &[
        (0, "it was asked to end, and has"),
        (2, "failed"),
        (11, "the source is followed already"),
        (13, "the server does not answer, or does not give its log"),
        (17, "the slot is lost, the server's log has no limit, or it is of another system"),
        (64, "there is no such source"),
        (78, "the configuration is wrong, or the server's programs are not there"),
    ],
};

/// Help beyond the flags of `open`.
pub const HELP_OPEN: Help = Help {
    command: "archive open",
    description: "Says that the log of a source is from now on that of another server: one that was made anew by initdb or \
        pg_upgrade. It takes the system identifier of the file that push refused. The decision is recorded as \
        evidence, with its reason; what was archived before stays what it is.",
    examples: &[("after pg_upgrade", "recoup archive open ledger --reason 'pg_upgrade from 15 to 18, change 4711'")],
    exit_codes: &[
        (0, "opened: the next push goes on"),
        (11, "a push of the source is running"),
        (17, "no file of another system was refused"),
        (64, "there is no such source, or no reason was given"),
    ],
};

/// What `archive` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// What to do with the log.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with the log.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Archive a file of the write-ahead log, for archive_command
    Push(PushArguments),
    /// Receive a server's log while it is written, and ship it
    Follow(FollowArguments),
    /// Give a recovering server a file of the write-ahead log, for restore_command
    Fetch(FetchArguments),
    /// Say that the log is from now on that of another server
    Open(OpenArguments),
}

impl Action {
    /// The command's name.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Push(_) => "archive push",
            Action::Follow(_) => "archive follow",
            Action::Fetch(_) => "archive fetch",
            Action::Open(_) => "archive open",
        }
    }
}

impl Action {
    /// How it reaches stores without a configuration, if it can, and the identity that it was given.
    pub(super) fn access(&self) -> Option<(&StoreArguments, Option<&Path>)> {
        match self {
            Action::Fetch(arguments) => Some((&arguments.stores, arguments.identity.as_deref())),
            Action::Push(_) | Action::Follow(_) | Action::Open(_) => None,
        }
    }
}

/// What `archive push` is told.
#[derive(Args, Debug)]
pub struct PushArguments {
    /// Archive the log of this source
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// Archive this file: %p of archive_command
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// What `archive follow` is told.
#[derive(Args, Debug)]
pub struct FollowArguments {
    /// Follow the log of this source
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// Ship what is new of an unfinished segment so often
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = interval)]
    pub every: Duration,
    /// Receive through this replication slot [default: recoup_SOURCE]
    #[arg(long, value_name = "NAME")]
    pub slot: Option<SlotName>,
    /// Make the slot where there is none
    #[arg(long)]
    pub create_slot: bool,
    /// Take a server that keeps its log for the slot until its disk is full
    #[arg(long)]
    pub unbounded: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("it is no time at all; the least is 1s".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// What `archive fetch` is told.
#[derive(Args, Debug)]
pub struct FetchArguments {
    /// Fetch from the log of this source
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// Fetch the file of this name: %f of restore_command
    #[arg(value_name = "FILE")]
    pub file: LogFile,
    /// Write it there: %p of restore_command
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Open the log with the identity in this file [default: $RECOUP_IDENTITY_FILE]
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Give what this plan of a restore lists, and nothing else
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Which stores to read.
    #[command(flatten)]
    pub stores: StoreArguments,
}

/// What `archive open` is told.
#[derive(Args, Debug)]
pub struct OpenArguments {
    /// Open a new history of this source's log
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    match &arguments.action {
        Action::Push(arguments) => push(arguments, context),
        Action::Follow(arguments) => follow(arguments, context),
        Action::Fetch(arguments) => fetch(arguments, context),
        Action::Open(arguments) => open_history(arguments, context),
    }
}

fn push(arguments: &PushArguments, context: &Context) -> Result<Code, Failure> {
    let settings = context.settings()?;
    let copies = copies(&settings, &arguments.source)?;
    let pushed: Pushed = context.run(async |job: Job| {
        let host = open::open_host(&settings, &job.world)?;
        open::provide_state_dir(&settings)?;
        let (source, path) = (arguments.source.clone(), arguments.path.clone());
        let request = PushRequest { source, path, copies };
        job.until_cancelled(archive::push(&host, &request)).await
    })?;
    for (store, why) in &pushed.behind {
        context.output().warning(&format!("store {store} does not have it: {why}"));
    }
    context.output().notes(&pushed.notes);
    Ok(Code::Done)
}

fn follow(arguments: &FollowArguments, context: &Context) -> Result<Code, Failure> {
    let settings = context.settings()?;
    let copies = copies(&settings, &arguments.source)?;
    let terms = Terms { create: arguments.create_slot, unbounded: arguments.unbounded };
    let slot = arguments.slot.clone().unwrap_or_else(|| SlotName::of_source(&arguments.source));
    let receiver = open::open_receiver(&settings, &arguments.source, slot, terms)?;
    context.run(async |job: Job| {
        let host = open::open_host(&settings, &job.world)?;
        open::provide_state_dir(&settings)?;
        let request = FollowRequest { source: arguments.source.clone(), copies, receiver, every: arguments.every };
        let tell = |text: &str| context.output().warning(text);
        archive::follow(&host, &request, &job.cancellation, &tell).await
    })?;
    Ok(Code::Done)
}

fn copies(settings: &Settings, source: &SourceName) -> Result<Copies, Failure> {
    let Some(found) = settings.source(source.as_str()) else {
        return Err(usage_failure(format!("there is no source named {source}"), "recoup config show"));
    };
    if found.kind != config::POSTGRES {
        return Err(Failure::new(Code::Configuration, format!("source {source} has no write-ahead log to archive"))
            .cause(format!("it is of kind {}", found.kind))
            .safe("nothing was read or archived")
            .next_step("name a source of kind postgres"));
    }
    Ok(settings.policy(found).copies.clone())
}

fn fetch(arguments: &FetchArguments, context: &Context) -> Result<Code, Failure> {
    let access = context.access(&arguments.stores, arguments.identity.as_deref())?;
    let plan = arguments.plan.as_deref().map(archive::read_plan).transpose()?;
    let copies = match access.settings() {
        Some(settings) => runs::copies_of(settings).remove(&arguments.source).unwrap_or_default(),
        None => Copies::default(),
    };
    let request = FetchRequest {
        source: arguments.source.clone(),
        file: arguments.file,
        target: arguments.path.clone(),
        copies,
        plan,
    };
    let identity = config::find_identity(arguments.identity.as_deref())?;
    let fetched = context.run(async |job: Job| job.until_cancelled(perform(&access, &identity, &request)).await)?;
    Ok(match fetched {
        Fetched::Here => Code::Done,
        Fetched::Absent => Code::Warning,
    })
}

async fn perform(access: &Access, identity: &IdentityInput, request: &FetchRequest) -> Result<Fetched, Failure> {
    let identities = open::read_identities(identity).await?;
    let repository = open_access(access).await?;
    archive::fetch(&repository, Arc::new(identities), request).await
}

fn open_history(arguments: &OpenArguments, context: &Context) -> Result<Code, Failure> {
    if context.global().reason.is_none() {
        return Err(usage_failure(
            "a new history is opened for a reason",
            format!("recoup archive open {} --reason TEXT", arguments.source),
        ));
    }
    let settings = context.settings()?;
    copies(&settings, &arguments.source)?;
    let opened: Opened = context.run(async |job: Job| {
        let host = open::open_host(&settings, &job.world)?;
        let recorder = Recorder::new(&host, &settings);
        let request = OpenRequest { source: arguments.source.clone(), system: None };
        archive::open(&host, &recorder, &request).await
    })?;
    let before = opened.before.map_or_else(|| "none".to_owned(), |system| system.to_string());
    let mut notes = vec![format!(
        "the log of {} is now that of system {} (before: {before}); take a full snapshot next",
        arguments.source, opened.system
    )];
    notes.extend(opened.notes);
    context.output().notes(&notes);
    Ok(Code::Done)
}
