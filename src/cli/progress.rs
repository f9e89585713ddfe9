//! Progress for people and scripts: bars, lines, or lines of JSON, always on standard error.

use super::{
    arguments::{Global, ProgressMode},
    human,
    output::{print, print_error},
};
use crate::{
    ops::progress::{Progress, Unit},
    world::Stopwatch,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::{
    io::IsTerminal,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// A bar that would be gone before anybody reads it is not shown.
const BAR_DELAY: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Bars,
    Plain,
    Json,
    Off,
}

impl Mode {
    fn interval(self) -> Duration {
        match self {
            Mode::Bars => Duration::from_millis(100),
            Mode::Json => Duration::from_secs(1),
            Mode::Plain | Mode::Off => Duration::from_secs(10),
        }
    }
}

/// Shows the progress of one use case.
pub(super) struct Reporter {
    shared: Arc<Shared>,
    ticker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    mode: Mode,
    /// Whether messages go to standard output.
    telling: bool,
    done: AtomicU64,
    total: AtomicU64,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    phase: Option<Phase>,
    finished: bool,
    since: Stopwatch,
    bar: ProgressBar,
    bar_shown: bool,
}

struct Phase {
    name: String,
    unit: Unit,
    since: Stopwatch,
}

/// What `total` is where nobody knows it.
const UNKNOWN: u64 = u64::MAX;

impl Reporter {
    /// As the flags and the terminal want it.
    pub(super) fn new(global: &Global) -> Self {
        let mode = match global.progress {
            ProgressMode::Plain => Mode::Plain,
            ProgressMode::Json => Mode::Json,
            ProgressMode::Auto if !global.quiet && std::io::stderr().is_terminal() => Mode::Bars,
            ProgressMode::Auto | ProgressMode::Off => Mode::Off,
        };
        Reporter::with(mode, false)
    }

    fn with(mode: Mode, telling: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let state = State { phase: None, finished: false, since: Stopwatch::start(), bar, bar_shown: false };
        let shared = Shared {
            mode,
            telling,
            done: AtomicU64::new(0),
            total: AtomicU64::new(UNKNOWN),
            state: Mutex::new(state),
            wake: Condvar::new(),
        };
        Reporter { shared: Arc::new(shared), ticker: Mutex::new(None) }
    }

    /// The same, with messages on standard output.
    pub(super) fn telling(self) -> Self {
        Reporter::with(self.shared.mode, true)
    }

    /// Prints where the work stands, whatever the mode.
    pub(super) fn print_status(&self) {
        let state = self.shared.lock();
        let line = self.shared.status(&state);
        state.bar.suspend(|| print_error(&format!("{line}\n")));
    }

    /// Takes the bars away; nothing is shown afterwards.
    pub(super) fn finish(&self) {
        self.shared.lock().finished = true;
        self.shared.wake.notify_all();
        let ticker = self.ticker.lock().ok().and_then(|mut ticker| ticker.take());
        if let Some(ticker) = ticker {
            // A ticker that panicked has said so; the command's result matters more.
            let _ = ticker.join();
        }
        self.shared.lock().bar.finish_and_clear();
    }

    fn start_ticker(&self) {
        let Ok(mut ticker) = self.ticker.lock() else { return };
        if self.shared.mode == Mode::Off || ticker.is_some() {
            return;
        }
        let shared = self.shared.clone();
        *ticker = std::thread::Builder::new().name("progress".to_owned()).spawn(move || shared.tick()).ok();
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Progress for Reporter {
    fn begin(&self, phase: &str, total: Option<u64>, unit: Unit) {
        let mut state = self.shared.lock();
        self.shared.done.store(0, Ordering::Relaxed);
        self.shared.total.store(total.unwrap_or(UNKNOWN), Ordering::Relaxed);
        state.phase = Some(Phase { name: phase.to_owned(), unit, since: Stopwatch::start() });
        state.bar.set_style(style(total, unit));
        // Before the name: a redraw in between must not show the last phase's amount beside it.
        state.bar.set_position(0);
        state.bar.set_prefix(phase.to_owned());
        state.bar.reset_eta();
        match self.shared.mode {
            Mode::Plain => print_error(&format!("{phase}\n")),
            Mode::Json => print_error(&self.shared.json(&state)),
            Mode::Bars | Mode::Off => {}
        }
        drop(state);
        self.start_ticker();
    }

    fn set_total(&self, total: u64) {
        let was_unknown = self.shared.total.swap(total, Ordering::Relaxed) == UNKNOWN;
        if was_unknown {
            let state = self.shared.lock();
            if let Some(phase) = &state.phase {
                state.bar.set_style(style(Some(total), phase.unit));
            }
        }
    }

    fn advance(&self, amount: u64) {
        self.shared.done.fetch_add(amount, Ordering::Relaxed);
    }

    fn message(&self, text: &str) {
        let state = self.shared.lock();
        if self.shared.telling {
            // The story is the result of the command, but a reader who left does not end the work.
            state.bar.suspend(|| drop(print(&format!("{text}\n"))));
        } else if self.shared.mode == Mode::Json {
            print_error(&json_line(&MessageLine { schema: SCHEMA, message: text }));
        } else if self.shared.mode != Mode::Off {
            state.bar.suspend(|| print_error(&format!("{text}\n")));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Progress of a thread that panicked is still progress.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed)).filter(|total| *total != UNKNOWN)
    }

    fn tick(&self) {
        let mut state = self.lock();
        loop {
            let interval = self.mode.interval();
            let waited = self.wake.wait_timeout_while(state, interval, |state| !state.finished);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            if state.finished {
                return;
            }
            match self.mode {
                Mode::Bars => self.draw(&mut state),
                Mode::Plain => print_error(&format!("{}\n", self.status(&state))),
                Mode::Json => print_error(&self.json(&state)),
                Mode::Off => return,
            }
        }
    }

    fn draw(&self, state: &mut State) {
        if !state.bar_shown && state.since.elapsed() < BAR_DELAY {
            return;
        }
        match self.total() {
            Some(total) => state.bar.set_length(total),
            None => state.bar.unset_length(),
        }
        state.bar.set_position(self.done.load(Ordering::Relaxed));
        if !state.bar_shown {
            state.bar.set_draw_target(ProgressDrawTarget::stderr());
            state.bar_shown = true;
        }
        state.bar.tick();
    }

    /// Where the work stands, in a line.
    fn status(&self, state: &State) -> String {
        let Some(phase) = &state.phase else { return "starting".to_owned() };
        let done = self.done.load(Ordering::Relaxed);
        let amount = |value: u64| match phase.unit {
            Unit::Bytes => human::size(value),
            Unit::Objects => human::count(value, "object"),
            Unit::Items => value.to_string(),
        };
        let mut line = format!("{}: {}", phase.name, amount(done));
        if let Some(total) = self.total() {
            let percent = if total == 0 { 100.0 } else { (done as f64 / total as f64 * 100.0).min(100.0) };
            line.push_str(&format!(" of {} ({percent:.0} %)", amount(total)));
        }
        line.push_str(&format!(", {}", human::span(phase.since.seconds())));
        line
    }

    fn json(&self, state: &State) -> String {
        let unit = state.phase.as_ref().map(|phase| match phase.unit {
            Unit::Bytes => "bytes",
            Unit::Objects => "objects",
            Unit::Items => "items",
        });
        json_line(&ProgressLine {
            schema: SCHEMA,
            phase: state.phase.as_ref().map(|phase| phase.name.as_str()),
            done: self.done.load(Ordering::Relaxed),
            total: self.total(),
            unit,
            seconds: state.since.seconds(),
        })
    }
}

const SCHEMA: &str = "recoup.progress/1";

#[derive(Serialize)]
struct ProgressLine<'s> {
    schema: &'static str,
    phase: Option<&'s str>,
    done: u64,
    total: Option<u64>,
    unit: Option<&'static str>,
    seconds: f64,
}

#[derive(Serialize)]
struct MessageLine<'s> {
    schema: &'static str,
    message: &'s str,
}

fn json_line(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("texts and numbers are always JSON") + "\n"
}

fn style(total: Option<u64>, unit: Unit) -> ProgressStyle {
    let template = match (total, unit) {
        (Some(_), Unit::Bytes) => {
            "{prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}"
        }
        (None, Unit::Bytes) => "{prefix} {spinner} {binary_bytes} {binary_bytes_per_sec}",
        (Some(_), _) => "{prefix} [{bar:30}] {pos}/{len} {eta}",
        (None, Unit::Items) => "{prefix} {spinner}",
        (None, _) => "{prefix} {spinner} {pos}",
    };
    ProgressStyle::with_template(template).expect("the templates above are valid").progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_says_where_the_work_stands() {
        let reporter = Reporter::with(Mode::Off, false);
        let status = || {
            let state = reporter.shared.lock();
            reporter.shared.status(&state)
        };
        assert_eq!(status(), "starting");
        reporter.begin("reading ledger", None, Unit::Bytes);
        reporter.advance(1024);
        assert_eq!(status(), "reading ledger: 1.0 KiB, 0 s");
        reporter.set_total(4096);
        assert_eq!(status(), "reading ledger: 1.0 KiB of 4.0 KiB (25 %), 0 s");
        reporter.begin("copying", Some(0), Unit::Objects);
        assert_eq!(status(), "copying: 0 objects of 0 objects (100 %), 0 s");
        reporter.finish();
        reporter.finish();
    }

    #[test]
    fn every_style_is_valid() {
        for unit in [Unit::Bytes, Unit::Objects, Unit::Items] {
            style(None, unit);
            style(Some(1), unit);
        }
    }
}
