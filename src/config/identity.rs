//! Where the custodian's identity comes from. Its text never appears in an output or an error.

use crate::{
    core::failure::{Code, Failure},
    world,
};
use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

/// Names the identity's file where no flag does.
pub const IDENTITY_FILE: &str = "RECOUP_IDENTITY_FILE";

/// A command that prints the identity, where nothing names a file.
pub const IDENTITY_COMMAND: &str = "RECOUP_IDENTITY_COMMAND";

/// An identity, not yet parsed.
#[derive(Clone, PartialEq, Eq)]
pub enum IdentityInput {
    /// It stands in a file.
    File(PathBuf),
    /// A command prints it.
    Command(String),
}

impl fmt::Debug for IdentityInput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityInput::File(file) => formatter.debug_tuple("File").field(file).finish(),
            // A command line may hold a password.
            IdentityInput::Command(_) => formatter.write_str("Command(..)"),
        }
    }
}

/// Finds the identity: `--identity`, then the environment's file, then the environment's command.
pub fn find_identity(flag: Option<&Path>) -> Result<IdentityInput, Failure> {
    let file = flag.map(Path::to_owned).or_else(|| world::environment(IDENTITY_FILE).map(PathBuf::from));
    if let Some(file) = file {
        return Ok(IdentityInput::File(file));
    }
    let Some(command) = world::environment(IDENTITY_COMMAND) else {
        return Err(Failure::new(Code::NoKey, "no identity was given")
            .cause("snapshots are sealed to the custodians' keys; this host cannot read them by itself")
            .safe("nothing was read or changed")
            .next_step(format!("add --identity FILE, or set {IDENTITY_FILE} or {IDENTITY_COMMAND}")));
    };
    Ok(IdentityInput::Command(command))
}

/// The signers file that travels with an identity's file: `IDENTITY.signers`.
pub fn signers_beside(identity: &Path) -> PathBuf {
    let mut name = OsString::from(identity.as_os_str());
    name.push(".signers");
    PathBuf::from(name)
}
