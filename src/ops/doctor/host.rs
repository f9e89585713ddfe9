//! This host's own files: the catalogue key, local state, and identities that should be elsewhere.

use super::Findings;
use crate::{
    config::Settings,
    core::{failure::shell_word, result::Severity},
    format::seal::{Identities, Recipients},
    world,
};
use rustix::fs::{Access, access};
use std::{
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// No identity is larger.
const IDENTITY_BYTES_MAX: u64 = 64 * 1024;

pub(super) fn examine(settings: &Settings, findings: &mut Findings) {
    if !settings.host.catalogue.exists() {
        findings.add(
            "no-catalogue-key",
            Severity::Warning,
            None,
            format!("there is no catalogue key {}: every snapshot is a full", settings.host.catalogue.display()),
            Some(format!(
                "bring it back with recoup config rescue --identity FILE --catalogue {0}, or make a new one with \
                 age-keygen -o {0}",
                shell_word(settings.host.catalogue.display())
            )),
        );
    }
    examine_state(settings, findings);
    examine_identities(settings, findings);
}

/// What a backup, `verify` and `copy` write must be writable, and belong to the one who runs them.
fn examine_state(settings: &Settings, findings: &mut Findings) {
    let state_dir = &settings.host.state_dir;
    let metadata = match fs::metadata(state_dir) {
        Ok(metadata) => metadata,
        Err(error) => {
            let message = format!(
                "the state directory {} cannot be used ({error}): what this host knew of the stores is lost, and the \
                 next snapshot is a full",
                state_dir.display()
            );
            let next_step = "bring it back, or let `recoup backup` make it again".to_owned();
            return findings.add("state-dir", Severity::Warning, None, message, Some(next_step));
        }
    };
    let mut wrong = |path: &Path, why: String| {
        let message = format!("the state directory {}: {why}", path.display());
        let next_step = format!("chown -R {} {}", world::user_name(metadata.uid()), state_dir.display());
        findings.add("state-dir", Severity::Critical, None, message, Some(next_step));
    };
    let sources = state_dir.join("sources");
    let of_sources = settings.sources.iter().map(|source| sources.join(source.name.as_str()));
    for directory in [state_dir.clone(), sources.clone()].into_iter().chain(of_sources) {
        let Ok(found) = fs::symlink_metadata(&directory) else { continue };
        if found.uid() != metadata.uid() {
            wrong(&directory, format!("it belongs to user {}", world::user_name(found.uid())));
        } else if let Err(error) = access(&directory, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
            wrong(&directory, format!("it cannot be written: {error}"));
        }
    }
    for source in &settings.sources {
        if let Some(path) = foreign_file(&sources.join(source.name.as_str()), metadata.uid()) {
            wrong(&path, "it belongs to another user".to_owned());
        }
    }
}

/// A file in a directory that is not this user's: another user has run a command here.
fn foreign_file(directory: &Path, user: u32) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    let mut foreign = entries.filter(|entry| entry.metadata().is_ok_and(|found| found.uid() != user));
    foreign.next().map(|entry| entry.path())
}

/// Whoever takes this host must not get the key that opens the snapshots with it.
fn examine_identities(settings: &Settings, findings: &mut Findings) {
    for path in identities_on_host(settings) {
        let message = format!(
            "the identity {} opens the snapshots and lies beside the configuration: move it off this host",
            path.display()
        );
        findings.add("identity-on-host", Severity::Note, None, message, None);
    }
}

/// Files beside the configuration that hold an identity of one of the recipients.
pub(in crate::ops) fn identities_on_host(settings: &Settings) -> Vec<PathBuf> {
    let Ok(recipients) = Recipients::parse(&settings.recipients) else { return Vec::new() };
    let mut paths: Vec<PathBuf> =
        fs::read_dir(settings.dir()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.retain(|path| opens_one_of(path, &recipients));
    paths
}

/// Whether a file holds an identity of one of the recipients. What it holds is never shown.
fn opens_one_of(path: &Path, recipients: &Recipients) -> bool {
    use rustix::fs::OFlags;
    // No link is followed and no pipe waited for: only files directly in the directory are of interest.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let Ok(file) = fs::OpenOptions::new().read(true).custom_flags(flags).open(path) else { return false };
    if !file.metadata().is_ok_and(|found| found.is_file() && found.len() <= IDENTITY_BYTES_MAX) {
        return false;
    }
    let mut text = String::new();
    if file.take(IDENTITY_BYTES_MAX).read_to_string(&mut text).is_err() {
        return false;
    }
    let Ok(identities) = Identities::parse(&text) else { return false };
    // A public SSH key may have a comment after its two words.
    let name = |recipient: &String| recipient.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    identities.recipients().iter().map(name).any(|own| recipients.names().contains(&own))
}
