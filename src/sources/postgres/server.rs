//! A private server on a restored data directory: nobody else can reach it, it reaches nobody, and it ends with us.

use super::{
    programs::Programs,
    psql::Psql,
    startup::{self, Control, Replayed},
};
use crate::{
    core::{
        failure::{Code, Failure, shell_word},
        log::Lsn,
    },
    world::{
        self, Stopwatch, files,
        programs::{Halt, Kept, KeptSignal, is_running},
    },
};
use std::{
    ffi::OsString,
    fs::{self, Permissions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

/// The number in the socket's name.
pub(super) const PORT: u16 = 5432;
/// The longest path of a socket that the system takes, less the name that the server gives it.
const SOCKET_DIR_BYTES_MAX: usize = 107 - "/.s.PGSQL.5432".len();
/// What `tempfile` adds to the directory for short-lived files.
const SCRATCH_NAME: &str = "recoup-pg-";
/// How much of the end of the server's log is read.
const LOG_BYTES_MAX: u64 = 1024 * 1024;
/// The time between two looks at a server that starts.
const POLL: Duration = Duration::from_millis(20);
/// The time between two questions to a server that replays.
const ASK: Duration = Duration::from_millis(500);
/// The same where it lets readers in already, and the end of its recovery may be near.
const ASK_READY: Duration = Duration::from_millis(100);
/// How often a server that is ready may fail to answer.
const REFUSED_MAX: u32 = 10;
/// How long a server may take that writes its memory to disk before it ends.
const FAST_STOP: Duration = Duration::from_secs(600);
/// How long one may take that just ends.
const IMMEDIATE_STOP: Duration = Duration::from_secs(20);
/// How long replay may stand still.
pub const STALL_LIMIT: Duration = Duration::from_secs(600);

/// What is started, and how.
#[derive(Clone)]
pub struct Start {
    /// The restored data directory.
    pub data: PathBuf,
    /// The programs of its version.
    pub programs: Programs,
    /// The role to ask as, if it is known; any that may log in will do.
    pub user: Option<String>,
    /// How long replay may stand still before it counts as hanging.
    pub stall: Duration,
    /// Where replay is to stand still and be read; `None` goes on to the target that was restored to. Started again, the
    /// server goes on from there.
    pub pause_before: Option<Lsn>,
    /// Who may want it to end.
    pub halt: Halt,
}

/// A private server that has recovered and answers.
///
/// Dropped, it is stopped at once, and its files are removed. [`Server::stop`] lets it write what it has in memory.
pub struct Server {
    start: Start,
    kept: Kept,
    scratch: PathBuf,
    user: String,
    control: Control,
    replayed: Replayed,
}

/// What a server says of its recovery.
enum Replay {
    /// It is there, as the text of a position.
    At(String),
    Paused,
    Ended,
}

impl Server {
    /// Starts it and waits until it has recovered.
    pub fn start(start: Start) -> Result<Self, Failure> {
        refuse_root(&start.data)?;
        refuse_running(&start.data)?;
        refuse_standby(&start.data)?;
        for program in ["psql", "pg_controldata"] {
            start.programs.required(program)?;
        }
        let control = start.programs.look_up("pg_controldata", &["-D".into(), (&start.data).into()], &start.halt)?;
        let control = startup::control(&control);
        let scratch = make_scratch().map_err(|error| {
            Failure::new(Code::Failed, "cannot make a directory for the server's socket")
                .cause(error)
                .safe("what was restored was not touched")
                .next_step("set TMPDIR to a directory with a short path that this user can write")
        })?;
        let arguments = arguments(&start, &control, &scratch);
        let kept = Kept::start(&start.programs.required("postgres")?, &arguments, &scratch).map_err(|error| {
            let _ = fs::remove_dir_all(&scratch);
            Failure::new(Code::Failed, "cannot start the server").cause(error).safe("what was restored was not touched")
        })?;
        let user = String::new();
        let mut server = Server { start, kept, scratch, user, control, replayed: Replayed::default() };
        server.recover()?;
        Ok(server)
    }

    /// How far it got with the log.
    pub fn replayed(&self) -> Replayed {
        self.replayed
    }

    /// Whether pages have checksums.
    pub fn has_checksums(&self) -> bool {
        self.control.has_checksums
    }

    pub(super) fn psql(&self) -> Psql<'_> {
        let Start { programs, halt, .. } = &self.start;
        Psql { programs, socket_dir: &self.scratch, user: &self.user, halt }
    }

    /// Stops it so that everything is on disk; at once where it does not.
    pub fn stop(mut self) -> Result<(), Failure> {
        let is_done = self.kept.end(KeptSignal::Interrupt, FAST_STOP) && self.kept.exit_code() == Some(0);
        if is_done {
            return Ok(());
        }
        self.kept.end(KeptSignal::Quit, IMMEDIATE_STOP);
        Err(self.failed("did not shut down in order", &self.log()))
    }

    /// Waits for the end of recovery, as long as it gets on.
    fn recover(&mut self) -> Result<(), Failure> {
        let (mut standing, mut last) = (Stopwatch::start(), None);
        let mut asked: Option<Stopwatch> = None;
        let (mut position, mut refused) = (String::new(), 0);
        loop {
            if self.start.halt.is_halted() {
                return Err(Failure::new(Code::Interrupted, "the server was stopped").next_step("run it again"));
            }
            if self.kept.has_ended() {
                return Err(self.did_not_start());
            }
            let status = self.status();
            // A server in recovery is "ready" as soon as it lets readers in: only its own word says that it is done.
            let (is_ready, may_answer) = (status == "ready", matches!(status.as_str(), "ready" | "standby"));
            let pause = if is_ready { ASK_READY } else { ASK };
            if may_answer && asked.is_none_or(|asked| asked.elapsed() > pause) {
                asked = Some(Stopwatch::start());
                match self.replay() {
                    Ok(Replay::Paused) if self.start.pause_before.is_some() => break,
                    Ok(Replay::Ended) if is_ready && self.start.pause_before.is_none() => break,
                    Ok(Replay::Ended) if is_ready => {
                        return Err(self.did_not_pause());
                    }
                    Ok(Replay::At(reached)) => position = reached,
                    Err(why) if is_ready && refused == REFUSED_MAX => return Err(self.cannot_ask(why)),
                    Err(_) if is_ready => refused += 1,
                    _ => {}
                }
            }
            let now = Some((self.seen(), position.clone()));
            if now != last {
                (standing, last) = (Stopwatch::start(), now);
            } else if standing.elapsed() > self.start.stall {
                let what = format!("did not get on with its recovery for {} s", self.start.stall.as_secs());
                return Err(self.failed(&what, &self.log()));
            }
            thread::sleep(POLL);
        }
        self.replayed = startup::replayed(&self.log());
        // Nothing to replay is an end too: that of the last checkpoint.
        self.replayed.until = self.replayed.until.or(self.control.checkpoint);
        Ok(())
    }

    /// What the server says in its directory of how far it is; empty where what stands there is another's.
    fn status(&self) -> String {
        let number = files::read_to_string(self.scratch.join("number")).unwrap_or_default();
        let text = read_start(&self.start.data.join("postmaster.pid"));
        match startup::process_and_status(&text) {
            Some((process, status)) if number.trim().parse() == Ok(process) => status.to_owned(),
            _ => String::new(),
        }
    }

    /// What changes while a server gets on: its log, its control file, the log that it was given.
    fn seen(&self) -> (u64, Vec<Option<SystemTime>>) {
        let length = fs::metadata(self.kept.log()).map_or(0, |found| found.len());
        let places = ["global/pg_control", "pg_wal"].map(|name| fs::metadata(self.start.data.join(name)));
        (length, places.into_iter().map(|found| found.and_then(|found| found.modified()).ok()).collect())
    }

    /// Where replay is, by the server's own word.
    fn replay(&mut self) -> Result<Replay, String> {
        if self.user.is_empty() {
            self.find_user()?;
        }
        let sql = "select pg_is_in_recovery(), pg_last_wal_replay_lsn(), \
            case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() end";
        let rows = self.psql().ask(CONNECTABLE, sql)?;
        let mut row = rows.into_iter().next().unwrap_or_default().into_iter();
        match (row.next().as_deref(), row.next(), row.next().as_deref()) {
            (Some("f"), ..) => Ok(Replay::Ended),
            (Some("t"), _, Some("paused")) => Ok(Replay::Paused),
            (Some("t"), position, _) => Ok(Replay::At(position.unwrap_or_default())),
            (other, ..) => Err(format!("it answers {other:?} when it is asked whether it is in recovery")),
        }
    }

    /// Finds a role that may do everything. Any role that may log in can say which that is.
    fn find_user(&mut self) -> Result<(), String> {
        let system = world::user_name(world::user_id());
        let candidates = [self.start.user.clone(), Some("postgres".to_owned()), Some(system)];
        let sql = "select rolname from pg_catalog.pg_roles where rolsuper and rolcanlogin order by oid limit 1";
        let mut refused = Vec::new();
        for candidate in candidates.into_iter().flatten() {
            self.user = candidate;
            match self.psql().ask(CONNECTABLE, sql) {
                Ok(rows) => {
                    if let Some(name) = rows.into_iter().flatten().next() {
                        self.user = name;
                    }
                    return Ok(());
                }
                Err(why) => refused.push(why),
            }
        }
        self.user.clear();
        refused.dedup();
        Err(refused.join("; "))
    }

    fn log(&self) -> String {
        read_end(&self.kept.log(), LOG_BYTES_MAX)
    }

    fn did_not_start(&self) -> Failure {
        let log = self.log();
        let causes = startup::causes(&log);
        match startup::missing_library(&causes) {
            None => self.failed("does not start", &log),
            Some(library) => Failure::new(
                Code::Source,
                format!("PostgreSQL does not start on {}: library {library} is missing", self.start.data.display()),
            )
            .cause(format!(
                "it is in shared_preload_libraries, and {} has no such library",
                self.start.programs.version
            ))
            .safe("what was restored is complete")
            .next_step(format!("install the package of {library} for PostgreSQL {}", self.start.programs.major)),
        }
    }

    /// One that lets no readers in when it is where it should pause goes on. That says nothing against what was restored.
    fn did_not_pause(&self) -> Failure {
        let message = format!("PostgreSQL did not pause on {}", self.start.data.display());
        Failure::new(Code::Source, message)
            .cause("it let no readers in by then, as where a transaction had many others within it")
            .safe("the server was stopped; the stores are untouched")
            .next_step("try again with another snapshot")
    }

    fn cannot_ask(&self, why: String) -> Failure {
        Failure::new(
            Code::Configuration,
            format!("found no role to ask the server on {} as", self.start.data.display()),
        )
        .cause(why)
        .safe("what was restored is complete; the server was stopped")
        .next_step("name a role of the cluster that may log in, as user of the source")
    }

    fn failed(&self, what: &str, log: &str) -> Failure {
        let causes = startup::causes(log);
        let last = || log.lines().next_back().unwrap_or("its log is empty").chars().take(400).collect();
        let cause: String = if causes.is_empty() { last() } else { causes.join("; ") };
        Failure::new(Code::Failed, format!("PostgreSQL {what} on {}", self.start.data.display()))
            .cause(cause)
            .safe("the server was stopped; the stores are untouched")
            .next_step(format!(
                "look at it by hand: {}/pg_ctl -D {} start",
                self.start.programs.dir.display(),
                shell_word(self.start.data.display())
            ))
    }
}

/// The database that everybody can connect to, and that nobody drops by mistake.
pub(super) const CONNECTABLE: &str = "template1";

/// The arguments of the server: whatever the restored configuration says, these hold.
fn arguments(start: &Start, control: &Control, scratch: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-D".into(), (&start.data).into()];
    let mut set = |name: &str, value: OsString| {
        let mut setting = OsString::from(format!("{name}="));
        setting.push(value);
        arguments.extend(["-c".into(), setting]);
    };
    // The configuration may name the original's places: this server must never touch them.
    set("data_directory", (&start.data).into());
    set("hba_file", scratch.join(HBA).into());
    set("ident_file", scratch.join(IDENT).into());
    set("unix_socket_directories", scratch.into());
    if !start.data.join("postgresql.conf").exists() {
        set("config_file", scratch.join(IDENT).into());
    }
    for (name, value) in SETTINGS {
        set(name, value.into());
    }
    for (from, name, value) in SETTINGS_SINCE {
        if start.programs.major >= *from {
            set(name, value.into());
        }
    }
    for (name, value) in &control.settings {
        set(name, value.into());
    }
    if let Some(at) = start.pause_before {
        // The others first: the server takes no second target, not even while it is about to lose the first.
        for name in ["", "_name", "_time", "_xid"] {
            set(&format!("recovery_target{name}"), "".into());
        }
        set("recovery_target_lsn", at.to_string().into());
        set("recovery_target_inclusive", "off".into());
        set("recovery_target_action", "pause".into());
    }
    arguments
}

/// Settings that keep a server to itself, quiet, small, and from hanging.
const SETTINGS: &[(&str, &str)] = &[
    // To itself: it listens to nobody, connects to nobody, runs no command of production's.
    ("listen_addresses", ""),
    ("port", "5432"),
    ("unix_socket_permissions", "0700"),
    ("unix_socket_group", ""),
    ("external_pid_file", ""),
    ("bonjour", "off"),
    ("ssl", "off"),
    ("archive_mode", "off"),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    ("max_logical_replication_workers", "0"),
    ("cron.launch_active_jobs", "off"),
    // It ends its recovery, and answers meanwhile.
    ("hot_standby", "on"),
    ("recovery_target_action", "promote"),
    ("recovery_min_apply_delay", "0"),
    // A crash is a finding, not something to be hidden by another start.
    ("restart_after_crash", "off"),
    // Small, whatever machine the original had; nothing of it stays in the system's shared memory.
    ("shared_buffers", "128MB"),
    ("huge_pages", "off"),
    ("dynamic_shared_memory_type", "mmap"),
    ("autovacuum", "off"),
    // Its log is read by us.
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_line_prefix", ""),
    ("log_min_messages", "warning"),
    ("log_error_verbosity", "default"),
    ("log_min_error_statement", "panic"),
    ("log_min_duration_statement", "-1"),
    ("log_statement", "none"),
    ("log_connections", "off"),
    ("log_disconnections", "off"),
    ("lc_messages", "C"),
    ("timezone", "UTC"),
];

/// The same, by the version that first knows them.
const SETTINGS_SINCE: &[(u32, &str, &str)] = &[
    (15, "allow_in_place_tablespaces", "on"),
    (15, "log_startup_progress_interval", "10s"),
    (17, "event_triggers", "off"),
    (17, "summarize_wal", "off"),
    (17, "sync_replication_slots", "off"),
    (18, "io_method", "worker"),
];

const HBA: &str = "hba.conf";
const IDENT: &str = "empty.conf";

/// A directory for the socket and the log that only this user can enter, with a path that fits.
fn make_scratch() -> io::Result<PathBuf> {
    let fits = |dir: &Path| {
        let text = dir.to_string_lossy();
        // Random characters of `tempfile`: six.
        text.len() + 1 + SCRATCH_NAME.len() + 6 <= SOCKET_DIR_BYTES_MAX && !text.contains([',', '"', '\'', '\\'])
    };
    let mut above = world::absolute(&world::temporary_dir());
    if !fits(&above) {
        above = PathBuf::from("/tmp");
    }
    let scratch =
        tempfile::Builder::new().prefix(SCRATCH_NAME).permissions(Permissions::from_mode(0o700)).tempdir_in(&above)?;
    fs::write(scratch.path().join(HBA), "local all all trust\n")?;
    fs::write(scratch.path().join(IDENT), "")?;
    Ok(scratch.keep())
}

fn refuse_root(data: &Path) -> Result<(), Failure> {
    if world::user_id() != 0 {
        return Ok(());
    }
    let owner = fs::metadata(data.join("global/pg_control")).map_or(0, |found| found.uid());
    let user = if owner == 0 { "postgres".to_owned() } else { world::user_name(owner) };
    Err(Failure::new(Code::Refused, format!("will not start PostgreSQL on {} as root", data.display()))
        .cause("PostgreSQL does not run as root: whoever can reach a server of root can do everything")
        .safe("what was restored was not touched")
        .next_step(format!(
            "run the same command as the cluster's owner: runuser -u {} -- recoup ...",
            shell_word(user)
        )))
}

/// Refuses a directory on which a server runs. Whether a note of a server is stale, the server decides itself.
pub fn refuse_running(data: &Path) -> Result<(), Failure> {
    let text = read_start(&data.join("postmaster.pid"));
    let Some((number, _)) = startup::process_and_status(&text) else { return Ok(()) };
    let number = number.saturating_abs();
    // A server's working directory is its data directory; that of another user's process cannot be seen.
    let place = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let works_in = place(Path::new(&format!("/proc/{number}/cwd")));
    let is_elsewhere = works_in.is_some() && works_in != place(data);
    if !is_running(number) || is_elsewhere {
        return Ok(());
    }
    Err(Failure::new(Code::Refused, format!("a server runs on {}", data.display()))
        .cause(format!("postmaster.pid names process {number}, and that runs"))
        .safe("nothing was changed")
        .next_step(format!("stop it first: pg_ctl -D {} stop", shell_word(data.display()))))
}

fn refuse_standby(data: &Path) -> Result<(), Failure> {
    if !data.join("standby.signal").exists() {
        return Ok(());
    }
    Err(Failure::new(Code::Refused, format!("{} is set up as a standby", data.display()))
        .cause("standby.signal is there: the server would follow its primary and never end its recovery")
        .safe("nothing was changed")
        .next_step("restore without --standby to check it"))
}

/// The beginning of a small file; empty where it cannot be read.
fn read_start(path: &Path) -> String {
    let bytes = files::read_start(path, 4096).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of a file, at most so many bytes of it; empty where it cannot be read.
pub(super) fn read_end(path: &Path, most: u64) -> String {
    let mut bytes = Vec::new();
    let read = files::open_regular(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
        file.take(most).read_to_end(&mut bytes)
    });
    if read.is_err() { String::new() } else { String::from_utf8_lossy(&bytes).into_owned() }
}
