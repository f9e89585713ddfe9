//! The only doors to the outside: clock, randomness, environment, processes, users.

pub mod files;
pub mod programs;

use crate::core::{id::RunId, time::Timestamp};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{io::AsyncReadExt, process::Command};

/// The clock and the randomness that everything else is given.
#[derive(Clone)]
pub struct World {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// Asked for when it is wanted: most commands never look at who runs them.
    invoked: fn() -> Invocation,
    reason: Option<Arc<str>>,
}

/// Who runs this process, where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// This host's name.
    pub host: String,
    /// The effective user.
    pub os_user: String,
    /// Who logged in and became that user, where the system tells.
    pub login_user: Option<String>,
    /// Why, as given on the command line.
    pub reason: Option<String>,
    /// The command line.
    pub command_line: Vec<String>,
}

impl Invocation {
    /// This process.
    fn real() -> Self {
        let command_line = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
        Invocation {
            host: host_name(),
            os_user: user_name(user_id()),
            login_user: login_user(),
            reason: None,
            command_line,
        }
    }

    /// A process of a simulation.
    fn simulated() -> Self {
        let (host, os_user) = ("simulated".to_owned(), "nobody".to_owned());
        Invocation { host, os_user, login_user: None, reason: None, command_line: Vec::new() }
    }
}

/// The user who logged in, where that is another than the one who runs this: what the kernel's audit says, else sudo.
fn login_user() -> Option<String> {
    let audit = std::fs::read_to_string("/proc/self/loginuid").ok();
    let audited = audit.and_then(|text| text.trim().parse::<u32>().ok()).filter(|uid| *uid != u32::MAX).map(user_name);
    audited.or_else(|| environment("SUDO_USER")).filter(|user| *user != user_name(user_id()))
}

/// Tells the time of day.
pub trait Clock: Send + Sync {
    /// The present moment by this host's clock.
    fn now(&self) -> Timestamp;
}

/// Gives random bytes.
pub trait Random: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

impl World {
    /// The real world: the system's clock and its random numbers.
    pub fn real() -> Self {
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        World { clock, random, invoked: Invocation::real, reason: None }
    }

    /// The same world, and why this process runs.
    #[must_use]
    pub fn with_reason(mut self, reason: Option<&str>) -> Self {
        self.reason = reason.map(Arc::from);
        self
    }

    /// Who runs this process, where, and why.
    pub fn invocation(&self) -> Invocation {
        Invocation { reason: self.reason.as_deref().map(str::to_owned), ..(self.invoked)() }
    }

    /// A world of the caller's making, for simulations.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        World { clock, random, invoked: Invocation::simulated, reason: None }
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// `N` random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes);
        bytes
    }

    /// A new random id.
    pub fn new_id(&self) -> RunId {
        RunId::from_random(self.random())
    }
}

struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the door to the clock")]
    fn now(&self) -> Timestamp {
        Timestamp::new(chrono::Utc::now())
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives random numbers");
    }
}

/// A clock that stands still until it is moved; for simulations.
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> Arc<Self> {
        Arc::new(ManualClock(Mutex::new(start)))
    }

    /// Moves the clock by `seconds`, forward or back.
    pub fn advance_seconds(&self, seconds: i64) {
        let mut now = self.0.lock().expect("no panic while held");
        *now = Timestamp::new(now.as_datetime() + chrono::Duration::seconds(seconds));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("no panic while held")
    }
}

/// Repeatable random bytes from a seed; for simulations.
pub struct SeededRandom(Mutex<blake3::OutputReader>);

impl SeededRandom {
    /// The stream of bytes that belongs to `seed`.
    pub fn new(seed: &str) -> Arc<Self> {
        Arc::new(SeededRandom(Mutex::new(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())))
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().expect("no panic while held").fill(bytes);
    }
}

/// Measures how long something takes, by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    #[expect(clippy::disallowed_methods, reason = "this is the door to the clock")]
    pub fn start() -> Self {
        Stopwatch(Instant::now())
    }

    /// The time since it was started.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// The same in seconds.
    pub fn seconds(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

/// The value of an environment variable, unless it is unset, empty or not UTF-8.
#[expect(clippy::disallowed_methods, reason = "this is the door to the environment")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The directory for short-lived files.
#[expect(clippy::disallowed_methods, reason = "this is the door to the environment")]
pub fn temporary_dir() -> PathBuf {
    std::env::temp_dir()
}

/// The effective user's number.
pub fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The name of a user in /etc/passwd, or `#` and the number.
pub fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let number = fields.nth(1)?;
            (number.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .next()
        .unwrap_or_else(|| format!("#{uid}"))
}

/// This host's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A path made absolute against the working directory, without following links.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The program that is running, by its absolute path.
pub fn program_path() -> Option<PathBuf> {
    std::env::current_exe().ok()
}

/// The most that a command may print for [`shell_output`].
const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;

/// What a shell command prints on its standard output; the error says how it failed, never what it printed.
///
/// When the caller stops waiting, the command is killed.
pub async fn shell_output(command: &str) -> Result<String, String> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("/bin/sh does not start: {error}"))?;
    let mut output = Vec::new();
    let stdout = child.stdout.take().expect("it was asked for");
    let read = stdout.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut output).await;
    // The pipe is closed by now: a command that prints without end gets an error instead of hanging.
    let status = child.wait().await.map_err(|error| format!("waiting for it failed: {error}"))?;
    read.map_err(|error| format!("its output cannot be read: {error}"))?;
    if output.len() as u64 > OUTPUT_BYTES_MAX {
        return Err("it printed more than 1 MiB".to_owned());
    }
    if !status.success() {
        return Err(format!("it ended with {status}"));
    }
    String::from_utf8(output).map_err(|_| "it printed something that is not text".to_owned())
}
