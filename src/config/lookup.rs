//! Which configuration file is meant. Never one in the working directory.

use crate::{
    core::failure::{Code, Failure},
    world,
};
use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Names the configuration file where no flag does.
pub const CONFIG: &str = "RECOUP_CONFIG";

const SYSTEM: &str = "/etc/recoup/recoup.toml";

/// Finds the configuration: `--config`, then the environment, then the usual places.
pub fn find(flag: Option<&Path>) -> Result<PathBuf, Failure> {
    let named = flag.map(|file| (file.to_owned(), "--config"));
    let named = named.or_else(|| world::environment(CONFIG).map(|file| (PathBuf::from(file), CONFIG)));
    if let Some((file, by)) = named {
        return match file.metadata() {
            Ok(_) => Ok(world::absolute(&file)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(failure(format!("cannot read the configuration {}", file.display()))
                    .cause(format!("{by} names it: {error}"))
                    .next_step(as_its_owner(&file)))
            }
            Err(error) => Err(missing(format!("cannot read the configuration {}", file.display()))
                .cause(format!("{by} names it: {error}"))),
        };
    }
    let places = usual_places();
    if let Some(file) = places.iter().find(|file| file.exists()) {
        return Ok(file.clone());
    }
    let denied = |file: &&PathBuf| file.metadata().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    if let Some(file) = places.iter().find(denied) {
        return Err(failure(format!("cannot read the configuration {}", file.display()))
            .cause(io::Error::from(io::ErrorKind::PermissionDenied))
            .next_step(as_its_owner(file)));
    }
    let shown: Vec<String> = places.iter().map(|file| file.display().to_string()).collect();
    Err(missing("there is no configuration".to_owned())
        .cause(format!("neither --config nor {CONFIG} names one, and there is none at {}", shown.join(" or "))))
}

/// Where `init` writes the configuration: as [`find`], but the file need not exist.
pub fn find_for_init(flag: Option<&Path>) -> PathBuf {
    let named = flag.map(Path::to_owned).or_else(|| world::environment(CONFIG).map(PathBuf::from));
    world::absolute(&named.unwrap_or_else(default_place))
}

/// What to run where the file is another user's, and not for this one to read.
pub(super) fn as_its_owner(file: &Path) -> String {
    let owner = world::absolute(file).ancestors().find_map(|place| place.metadata().ok()).map(|found| found.uid());
    match owner.filter(|owner| *owner != world::user_id()) {
        Some(owner) => format!("runuser -u {} -- recoup ...", world::user_name(owner)),
        None => "make it readable for the user who runs this configuration".to_owned(),
    }
}

fn failure(message: String) -> Failure {
    Failure::new(Code::Configuration, message).safe("nothing was read or changed")
}

fn missing(message: String) -> Failure {
    failure(message).next_step(
        "name it with --config; on a host that has none, list, points, verify and restore take --store URL and \
         --signers FILE; \
         a new repository is made as `recoup init --help` says",
    )
}

fn default_place() -> PathBuf {
    if world::user_id() == 0 {
        return PathBuf::from(SYSTEM);
    }
    usual_places().pop().expect("there is always the system's place")
}

fn usual_places() -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from(SYSTEM)];
    let absolute = |name: &str| world::environment(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let user = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    places.extend(user.map(|dir| dir.join("recoup").join("recoup.toml")));
    places
}
