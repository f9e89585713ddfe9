//! Makes the ledger that the benchmarks use: `cargo bench --bench ledger -- FILE BYTES [SEED]`.
//!
//! FILE gets a ledger of about BYTES bytes (within a tenth), the same one for the same numbers; it must not exist.

use recoup::ops::demo::ledger;
use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    // Cargo adds a flag of its own to what the caller says.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match make(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            #[expect(clippy::print_stderr, reason = "a program of its own")]
            {
                eprintln!("ledger: {message}");
            }
            ExitCode::FAILURE
        }
    }
}

fn make(arguments: &[String]) -> Result<(), String> {
    let [path, bytes, seed @ ..] = arguments else { return Err("usage: FILE BYTES [SEED]".to_owned()) };
    let number = |text: &String| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let seed = seed.first().map(number).transpose()?.unwrap_or(1);
    let ends_at = "2026-01-01T00:00:00Z".parse().map_err(|error| format!("{error}"))?;
    ledger::create(Path::new(path), ledger::postings_for_bytes(number(bytes)?), seed, ends_at)
        .map(drop)
        .map_err(|failure| failure.to_string())
}
