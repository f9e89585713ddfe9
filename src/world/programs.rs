//! Programs of others, run within bounds: a clean environment, a time limit, so much output and no more, and an end
//! that does not depend on ours. All calls block.

use super::Stopwatch;
use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// The time between two looks at a program that runs.
const POLL: Duration = Duration::from_millis(10);
/// How long a program's output may be waited for once it has ended: something that it started may hold the pipe.
const OUTPUT_GRACE: Duration = Duration::from_secs(5);
/// How much of standard error is kept.
const STDERR_BYTES_MAX: usize = 64 * 1024;

/// A request to end programs, shared by those who run them and those who may want them to end.
#[derive(Clone, Default)]
pub struct Halt(Arc<HaltState>);

#[derive(Default)]
struct HaltState {
    halted: AtomicBool,
    present: Mutex<usize>,
    left: Condvar,
}

impl Halt {
    /// A request that nobody has made yet.
    pub fn new() -> Self {
        Halt::default()
    }

    /// Makes the request.
    pub fn halt(&self) {
        self.0.halted.store(true, Ordering::SeqCst);
    }

    /// Whether it was made.
    pub fn is_halted(&self) -> bool {
        self.0.halted.load(Ordering::SeqCst)
    }

    /// Says that something runs until what this returns is dropped.
    pub fn enter(&self) -> Presence {
        *self.present() += 1;
        Presence(self.clone())
    }

    /// Waits until nothing runs any more, for at most `limit`; returns whether it is so.
    pub fn wait(&self, limit: Duration) -> bool {
        let waited = self.0.left.wait_timeout_while(self.present(), limit, |present| *present > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }

    fn present(&self) -> MutexGuard<'_, usize> {
        // A count is right whatever panicked while it was held.
        self.0.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something runs, as long as this is there.
pub struct Presence(Halt);

impl Drop for Presence {
    fn drop(&mut self) {
        *self.0.present() -= 1;
        self.0.0.left.notify_all();
    }
}

/// A program, and within which bounds it runs.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its path.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What its environment has beside `PATH`, `LC_ALL=C` and `TZ=UTC`.
    pub environment: Vec<(&'static str, OsString)>,
    /// How long it may run.
    pub limit: Duration,
    /// How much it may print; it is ended when it prints more.
    pub output_bytes_max: usize,
}

/// What came of a program that was not stopped for its time.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it printed, up to the limit.
    pub stdout: Vec<u8>,
    /// Whether it printed more than that, and was ended for it.
    pub is_cut: bool,
    /// What it said, up to a limit.
    pub stderr: String,
    status: ExitStatus,
}

impl Ended {
    /// What it said when it failed, else how it ended.
    pub fn complaint(&self) -> String {
        let said = self.stderr.trim();
        if said.is_empty() { format!("it ended with {}", self.status) } else { said.to_owned() }
    }
}

/// Why a program has no result.
#[derive(Debug)]
pub enum NotEnded {
    /// It could not be started or waited for.
    Broken(io::Error),
    /// It took longer than it may, and was killed.
    Overdue(Duration),
    /// Somebody wanted it to end, and it was killed.
    Halted,
}

impl fmt::Display for NotEnded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotEnded::Broken(error) => write!(formatter, "it does not run: {error}"),
            NotEnded::Overdue(limit) => write!(formatter, "it took longer than {} s", limit.as_secs()),
            NotEnded::Halted => formatter.write_str("it was stopped"),
        }
    }
}

/// A command in a group of its own (what a terminal sends to ours does not reach it), in a clean environment.
fn command(path: &Path, arguments: &[OsString], environment: &[(&'static str, OsString)]) -> Command {
    let mut command = Command::new(path);
    command.args(arguments).env_clear().process_group(0).current_dir("/");
    command.envs([("PATH", "/usr/bin:/bin"), ("LC_ALL", "C"), ("TZ", "UTC")]);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

impl Program {
    /// Runs it to its end, or to that of its time, its output, or everybody's patience.
    pub fn run(&self, halt: &Halt) -> Result<Ended, NotEnded> {
        if halt.is_halted() {
            return Err(NotEnded::Halted);
        }
        let mut command = command(&self.path, &self.arguments, &self.environment);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut running = Running(spawned.map_err(NotEnded::Broken)?);
        let cut = Arc::new(AtomicBool::new(false));
        let stdout = collect(running.0.stdout.take(), self.output_bytes_max, Some(cut.clone()));
        let stderr = collect(running.0.stderr.take(), STDERR_BYTES_MAX, None);
        let time = Stopwatch::start();
        let status = loop {
            if let Some(status) = running.0.try_wait().map_err(NotEnded::Broken)? {
                break status;
            }
            if halt.is_halted() {
                return Err(NotEnded::Halted);
            }
            if time.elapsed() > self.limit {
                return Err(NotEnded::Overdue(self.limit));
            }
            if cut.load(Ordering::SeqCst) {
                running.kill();
            }
            thread::sleep(POLL);
        };
        let stdout = stdout.recv_timeout(OUTPUT_GRACE).unwrap_or_default();
        let stderr = stderr.recv_timeout(OUTPUT_GRACE).unwrap_or_default();
        let is_cut = cut.load(Ordering::SeqCst);
        Ok(Ended { code: status.code(), stdout, is_cut, stderr: String::from_utf8_lossy(&stderr).into_owned(), status })
    }
}

/// Reads all of a pipe on a thread of its own, keeping the first `most` bytes.
///
/// Where more matters, `cut` is set and the pipe is closed; else the rest is read and forgotten.
fn collect<R: Read + Send + 'static>(
    pipe: Option<R>,
    most: usize,
    cut: Option<Arc<AtomicBool>>,
) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut kept = Vec::new();
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        let read = (&mut pipe).take(limit).read_to_end(&mut kept);
        let is_more = kept.len() > most;
        kept.truncate(most);
        match (is_more, &cut) {
            (true, Some(cut)) => cut.store(true, Ordering::SeqCst),
            (true, None) if read.is_ok() => drop(io::copy(&mut pipe, &mut io::sink())),
            _ => {}
        }
        // Nobody may be waiting any more.
        let _ = sender.send(kept);
    });
    receiver
}

/// A child that is killed with its group unless it has ended.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        // A child that was waited for has no number any more that could be trusted.
        if let Ok(None) = self.0.try_wait() {
            if let Some(group) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = self.0.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Keeps a program and its scratch directory ($1), for as long as standard input is open: each line of it is a signal
/// to send. Whoever holds the other end may be killed; the program then ends too, and the directory goes.
const KEEPER: &str = r#"
trap '' HUP INT TERM
scratch=$1
shift
exec 3<&0 </dev/null
(
  "$@" 3<&- >"$scratch/log" 2>&1 &
  echo $! >"$scratch/number"
  wait $!
  echo $? >"$scratch/ended.new"
  mv "$scratch/ended.new" "$scratch/ended"
) 3<&- &
send() {
  [ -s "$scratch/number" ] && [ ! -e "$scratch/ended" ] && kill -s "$1" "$(cat "$scratch/number")"
}
while read -r signal <&3; do
  send "$signal"
done
tries=0
while [ ! -e "$scratch/ended" ] && [ $tries -lt 200 ]; do
  [ $((tries % 20)) = 0 ] && send QUIT
  tries=$((tries + 1))
  sleep 0.05
done
send KILL
wait
rm -rf "$scratch"
"#;

/// How long the end of a kept program that was let go may take; twice what its keeper waits.
const KEEPER_LIMIT: Duration = Duration::from_secs(20);

/// A signal to a program that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptSignal {
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
}

/// A program that runs beside us until it is let go, with a directory that goes with it.
///
/// Dropped, it gets SIGQUIT, and SIGKILL if that does not help. It also ends when this process is killed.
pub struct Kept {
    scratch: PathBuf,
    keeper: Running,
    orders: Option<ChildStdin>,
}

impl Kept {
    /// Starts it; its output goes to `log` in `scratch`, which belongs to it from now on.
    pub fn start(path: &Path, arguments: &[OsString], scratch: &Path) -> io::Result<Self> {
        Kept::start_with(path, arguments, &[], scratch)
    }

    /// The same, with more in its environment.
    pub fn start_with(
        path: &Path,
        arguments: &[OsString],
        environment: &[(&'static str, OsString)],
        scratch: &Path,
    ) -> io::Result<Self> {
        let mut all = vec!["-c".into(), KEEPER.into(), "sh".into(), scratch.into(), path.into()];
        all.extend(arguments.iter().cloned());
        let mut command = command(Path::new("/bin/sh"), &all, environment);
        let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let orders = keeper.stdin.take();
        Ok(Kept { scratch: scratch.to_owned(), keeper: Running(keeper), orders })
    }

    /// What it prints goes here.
    pub fn log(&self) -> PathBuf {
        self.scratch.join("log")
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        // A keeper that is gone keeps nothing.
        self.scratch.join("ended").exists() || !matches!(self.keeper.0.try_wait(), Ok(None))
    }

    /// Its exit code as a shell says it, once it has ended.
    pub fn exit_code(&self) -> Option<i32> {
        let text = fs::read_to_string(self.scratch.join("ended")).ok()?;
        text.trim().parse().ok()
    }

    /// Sends a signal and waits for the end, for at most `limit`; returns whether it has ended.
    pub fn end(&mut self, signal: KeptSignal, limit: Duration) -> bool {
        let name: &[u8] = match signal {
            KeptSignal::Interrupt => b"INT\n",
            KeptSignal::Quit => b"QUIT\n",
        };
        if let Some(orders) = &mut self.orders {
            // A keeper that does not listen any more is gone.
            let _ = orders.write_all(name);
        }
        self.waits(limit)
    }

    fn waits(&mut self, limit: Duration) -> bool {
        let time = Stopwatch::start();
        while !self.has_ended() {
            if time.elapsed() > limit {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Its end is what the keeper waits for.
        self.orders = None;
        let time = Stopwatch::start();
        while matches!(self.keeper.0.try_wait(), Ok(None)) && time.elapsed() < KEEPER_LIMIT {
            thread::sleep(POLL);
        }
        self.keeper.kill();
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Whether a process with this number runs, whoever runs it.
pub fn is_running(number: i32) -> bool {
    let Some(process) = rustix::process::Pid::from_raw(number) else { return false };
    // One that has ended, and that nobody has asked about yet, has a number but does nothing any more.
    let status = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    let has_ended = status.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']));
    // One that may not be asked is there all the same.
    !has_ended && rustix::process::test_kill_process(process) != Err(rustix::io::Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("GIVEN", "1".into())],
            limit: Duration::from_secs(60),
            output_bytes_max: 1000,
        }
    }

    /// Waits for what another process does; fails after a minute.
    #[track_caller]
    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let time = Stopwatch::start();
        while !holds() {
            assert!(time.elapsed() < Duration::from_secs(60), "{what}");
            thread::sleep(POLL);
        }
    }

    #[test]
    fn programs_run_within_their_bounds() {
        let halt = Halt::new();
        let ended = shell("env | grep -v PWD | sort; pwd; echo said >&2; exit 3").run(&halt).unwrap();
        let printed = String::from_utf8(ended.stdout.clone()).unwrap();
        let expected = ["GIVEN=1", "LC_ALL=C", "PATH=/usr/bin:/bin", "TZ=UTC", "/"];
        let lines: Vec<&str> =
            printed.lines().filter(|line| !line.starts_with("_=") && !line.contains("SHLVL")).collect();
        assert_eq!(lines, expected);
        assert_eq!((ended.code, ended.complaint().as_str(), ended.is_cut), (Some(3), "said", false));

        let endless = shell("while :; do echo 123456789; done").run(&halt).unwrap();
        assert!(endless.is_cut && endless.stdout.len() == 1000 && endless.code != Some(0), "{endless:?}");
        let loud = shell("head -c 1000000 /dev/zero >&2; echo done").run(&halt).unwrap();
        assert_eq!((loud.stderr.len(), loud.stdout.as_slice()), (STDERR_BYTES_MAX, b"done\n".as_slice()));

        let slow = Program { limit: Duration::from_millis(50), ..shell("sleep 1000") };
        assert!(matches!(slow.run(&halt), Err(NotEnded::Overdue(_))));
        let missing = Program { path: "/nonexistent/program".into(), ..shell("") };
        assert!(matches!(missing.run(&halt), Err(NotEnded::Broken(_))));
    }

    #[test]
    fn what_is_halted_ends_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let number = dir.path().join("number");
        let halt = Halt::new();
        let (presence, script) = (halt.enter(), format!("sleep 1000 & echo $! >'{}'; wait", number.display()));
        let thread = thread::spawn({
            let halt = halt.clone();
            move || {
                let _presence = presence;
                matches!(shell(&script).run(&halt), Err(NotEnded::Halted))
            }
        });
        let child = || fs::read_to_string(&number).ok()?.trim().parse::<i32>().ok();
        eventually("it starts", || child().is_some());
        assert!(!halt.wait(Duration::ZERO));
        halt.halt();
        assert!(halt.wait(Duration::from_secs(60)));
        assert!(thread.join().unwrap());
        eventually("its child is gone", || !is_running(child().unwrap()));
        assert!(matches!(shell("true").run(&halt), Err(NotEnded::Halted)));
    }

    #[test]
    fn kept_programs_end_with_whoever_keeps_them() {
        // What a program does with its signals, and the code that each end gives.
        let polite = "trap 'exit 7' INT; trap 'exit 8' QUIT; echo ready; while :; do sleep 0.01; done";
        for (signal, code) in [(KeptSignal::Interrupt, 7), (KeptSignal::Quit, 8)] {
            let dir = tempfile::tempdir().unwrap();
            let scratch = dir.path().join("s");
            fs::create_dir(&scratch).unwrap();
            let arguments = ["-c".into(), polite.into()];
            // Started in the background by a shell, a shell ignores these two signals for good; `env` resets them.
            let arguments: Vec<OsString> =
                ["--default-signal=INT,QUIT".into(), "sh".into()].into_iter().chain(arguments).collect();
            let mut kept = Kept::start(Path::new("/usr/bin/env"), &arguments, &scratch).unwrap();
            eventually("it starts", || fs::read_to_string(kept.log()).is_ok_and(|log| log == "ready\n"));
            assert!(!kept.has_ended() && kept.exit_code().is_none());
            assert!(kept.end(signal, Duration::from_secs(60)));
            assert_eq!(kept.exit_code(), Some(code));
            drop(kept);
            assert!(!scratch.exists());
        }
    }

    #[test]
    fn kept_programs_that_do_not_listen_are_killed() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().join("s");
        fs::create_dir(&scratch).unwrap();
        let deaf = "trap '' INT QUIT TERM; echo $$; while :; do sleep 1; done";
        let mut kept = Kept::start(Path::new("/bin/sh"), &["-c".into(), deaf.into()], &scratch).unwrap();
        let number = |kept: &Kept| fs::read_to_string(kept.log()).ok()?.trim().parse::<i32>().ok();
        eventually("it starts", || number(&kept).is_some());
        let number = number(&kept).unwrap();
        assert!(!kept.end(KeptSignal::Interrupt, Duration::from_millis(50)));
        drop(kept);
        assert!(!is_running(number) && !scratch.exists());
    }
}
