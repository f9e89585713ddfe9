//! Runs the work of a command and ends it when a signal asks for it.

use super::progress::Reporter;
use crate::{
    core::failure::{Code, Failure},
    ops::cancel::{Cancellation, interrupted},
};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long the work may take to end by itself once it was asked to. Commits are atomic: cutting it off is
/// safe, and only leaves more for the next run to tidy up.
const GRACE: Duration = Duration::from_secs(5);

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    status: Signal,
}

/// Makes sure, before anything else is done, that a request for the status ends nothing.
///
/// What is installed once stays installed, also without anybody listening. A request to stop that comes so early
/// still ends the process: nothing has begun.
pub(super) fn expect_status_requests() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    if let Ok(runtime) = runtime {
        let _inside = runtime.enter();
        // Where it cannot be installed, it is tried again, and reported, when the work begins.
        drop(signal(SignalKind::user_defined1()));
    }
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        // By default a file that reaches its size limit kills the process; caught, the write fails and is reported.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            status: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next request to stop. Requests for the status are answered meanwhile.
    async fn stop(&mut self, reporter: &Reporter) -> Code {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return Code::Interrupted,
                _ = self.terminate.recv() => return Code::Terminated,
                _ = self.status.recv() => reporter.print_status(),
            }
        }
    }
}

/// Runs `work` to its end, or until SIGINT or SIGTERM: then it is asked to stop, and dropped when it does not.
pub(super) fn run_until_signalled<T>(
    reporter: &Reporter,
    cancellation: &Cancellation,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal("cannot start the threads that the work needs").cause(error))?;
    let result = runtime.block_on(async {
        let mut signals =
            Signals::install().map_err(|error| Failure::internal("cannot listen to signals").cause(error))?;
        tokio::pin!(work);
        tokio::select! {
            result = &mut work => result,
            code = signals.stop(reporter) => {
                cancellation.cancel(code);
                let ended = tokio::select! {
                    result = &mut work => result.ok(),
                    _ = signals.stop(reporter) => None,
                    () = tokio::time::sleep(GRACE) => None,
                };
                // Work that was as good as finished has finished; every failure now is the interruption's.
                ended.ok_or_else(|| interrupted(code))
            }
        }
    });
    // Threads that are still busy end with the process.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::Global;
    use rustix::process::{Signal as Number, getpid, kill_process};

    /// One test, because signals reach every test of the process.
    #[test]
    fn signals_end_the_work() {
        let reporter = Reporter::new(&Global::default());
        let raise = |number| kill_process(getpid(), number).unwrap();
        for (number, code) in [(Number::INT, Code::Interrupted), (Number::TERM, Code::Terminated)] {
            // Work that looks at the request, and work that has to be dropped after a second signal.
            let asked = Cancellation::new();
            let result: Result<(), Failure> = run_until_signalled(&reporter, &asked, async {
                raise(number);
                asked.cancelled().await;
                asked.check()
            });
            assert_eq!(result.unwrap_err(), interrupted(code));
            let ignored = Cancellation::new();
            let result: Result<(), Failure> = run_until_signalled(&reporter, &ignored, async {
                raise(number);
                ignored.cancelled().await;
                raise(number);
                std::future::pending().await
            });
            assert_eq!(result.unwrap_err(), interrupted(code));
        }
        // Work that finishes in spite of the signal has finished.
        let cancellation = Cancellation::new();
        let result = run_until_signalled(&reporter, &cancellation, async {
            raise(Number::INT);
            cancellation.cancelled().await;
            Ok(7)
        });
        assert_eq!(result, Ok(7));
        // A request for the status ends nothing.
        let result = run_until_signalled(&reporter, &Cancellation::new(), async {
            raise(Number::USR1);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(8)
        });
        assert_eq!(result, Ok(8));
    }
}
