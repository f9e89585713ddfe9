//! From settings to what use cases work with: stores, keys, signers, sources.

use super::host::{CatalogueKey, Host, Protected};
use crate::{
    config::{Access, IDENTITY_COMMAND, IdentityInput, PostgresSettings, Settings, SourceSettings, StoreSettings},
    core::{
        failure::{Code, Failure},
        id::{RepositoryId, SourceName},
        policy::Place,
    },
    format::{
        seal::{Identities, InvalidIdentity, Recipients},
        signature::HostKey,
        signers::Signers,
    },
    repository::{Repository, head, vouch::Vouches},
    sources::{Limits, Source, log, postgres, sqlite},
    stores::{self, Store, StoreSpec, refuse_aliases},
    world::{self, World, files},
};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// What to do where the configured signers cannot be read.
const SIGNERS_STEP: &str = "bring back the file that the configuration names";

/// A store as the configuration has it.
pub fn store_spec(settings: &StoreSettings) -> StoreSpec {
    StoreSpec {
        name: settings.name.clone(),
        url: settings.url.to_string(),
        place: Place { region: settings.region.clone(), provider: settings.provider.clone() },
        mounted: settings.mounted,
        s3: settings.s3.clone(),
    }
}

/// The stores as the configuration has them.
pub fn store_specs(stores: &[StoreSettings]) -> Vec<StoreSpec> {
    stores.iter().map(store_spec).collect()
}

/// The variables of this environment that the stores' credentials come from, each once.
pub fn credential_variables(stores: &[StoreSettings]) -> Vec<String> {
    let all: BTreeSet<String> = store_specs(stores).iter().flat_map(StoreSpec::credential_variables).collect();
    all.into_iter().collect()
}

/// The configured stores; one that cannot be opened answers everything with the reason.
pub fn open_stores(stores: &[StoreSettings]) -> Vec<Store> {
    store_specs(stores).iter().map(Store::open_or_absent).collect()
}

/// What every backup refuses in a configuration, as far as the configuration alone shows it.
pub fn check_settings(settings: &Settings) -> Result<Recipients, Failure> {
    repository_id(settings)?;
    refuse_aliases(&store_specs(&settings.stores), Code::Configuration)?;
    settings.sources.iter().try_for_each(check_kind)?;
    Recipients::parse(&settings.recipients).map_err(|error| {
        Failure::new(Code::Configuration, format!("{}: a recipient is not valid", settings.file.display()))
            .cause(error)
            .safe("nothing was read or changed")
            .next_step("correct [encryption] recipients")
    })
}

/// Opens everything that a run on a configured host needs. Changes nothing.
pub fn open_host(settings: &Settings, world: &World) -> Result<Host, Failure> {
    check_user(settings)?;
    let recipients = check_settings(settings)?;
    Ok(Host {
        world: world.clone(),
        repository: open_repository(settings)?,
        state_dir: settings.host.state_dir.clone(),
        key: Arc::new(read_host_key(&settings.host.signing_key)?),
        recipients,
        catalogue_key: read_catalogue_key(&settings.host.catalogue)?,
        compression_level: settings.compression_level,
        spool_limit_bytes: settings.spool_limit_bytes,
        configuration: settings.effective_text(),
    })
}

/// Everything that keeps a host from being opened: each part by itself, so that one does not hide the others.
pub fn host_failures(settings: &Settings) -> Vec<Failure> {
    let parts = [
        check_user(settings).err(),
        check_settings(settings).err(),
        read_signers(&settings.host.allowed_signers, SIGNERS_STEP).err(),
        read_host_key(&settings.host.signing_key).err(),
        read_catalogue_key(&settings.host.catalogue).err(),
    ];
    parts.into_iter().flatten().collect()
}

/// The configured repository, for commands that only read.
pub fn open_repository(settings: &Settings) -> Result<Repository, Failure> {
    let id = repository_id(settings)?;
    let signers = read_signers(&settings.host.allowed_signers, SIGNERS_STEP)?;
    Ok(Repository { id, stores: open_stores(&settings.stores), signers, vouches: Vouches::default() })
}

fn repository_id(settings: &Settings) -> Result<RepositoryId, Failure> {
    settings.repository.ok_or_else(|| {
        Failure::new(Code::Configuration, format!("{}: [repository] id is missing", settings.file.display()))
            .cause("it pins the repository, so that a store with another one is noticed")
            .safe("nothing was read or changed")
            .next_step("copy the id from recoup.json at the top of a store that you trust")
    })
}

/// The repository behind what a reading command may use.
pub async fn open_access(access: &Access) -> Result<Repository, Failure> {
    match access {
        Access::Configured(settings) => {
            check_user(settings)?;
            open_repository(settings)
        }
        Access::Bare { stores, signers } => open_bare(stores, signers).await,
    }
}

/// A repository of which only stores and signers are known: its id is what the stores say.
///
/// Signers name the repository they sign for, so a wrong id makes every signature worthless.
pub async fn open_bare(stores: &[StoreSettings], signers: &Path) -> Result<Repository, Failure> {
    let signers = read_signers(signers, "name the file with --signers: IDENTITY.signers of a custodian")?;
    let stores = open_stores(stores);
    let mut id: Option<(RepositoryId, String)> = None;
    let mut failures = Vec::new();
    for store in &stores {
        match head::read(store).await {
            Ok(head) => match &id {
                Some((known, first)) if *known != head.repository => {
                    return Err(Failure::new(
                        Code::Refused,
                        format!("stores {first} and {} hold different repositories", store.name()),
                    )
                    .cause(format!("{known} and {}", head.repository))
                    .safe("nothing was read or changed")
                    .next_step("name stores of one repository"));
                }
                Some(_) => {}
                None => id = Some((head.repository, store.name().to_owned())),
            },
            Err(status) => failures.push(status.failure(store.name())),
        }
    }
    let Some((id, _)) = id else {
        failures.sort_by_key(|failure| failure.code);
        return Err(failures.into_iter().next().unwrap_or_else(|| Failure::new(Code::Usage, "no store is named")));
    };
    Ok(Repository { id, stores, signers, vouches: Vouches::default() })
}

/// A source with its policy.
pub fn open_source(settings: &Settings, host: &Host, name: &SourceName) -> Result<Protected, Failure> {
    let source = settings.source(name.as_str());
    let source = source.ok_or_else(|| Failure::new(Code::Usage, format!("there is no source named {name}")))?;
    refuse_own_files(source, &settings.stores, &[&settings.host.state_dir])?;
    let opened = open_database(source, &host.world, host.source_state_dir(name).join("scratch"))?;
    Ok(Protected { name: name.clone(), source: opened, policy: settings.policy(source).clone() })
}

/// The database of a source; nothing is looked at yet.
pub fn open_database(source: &SourceSettings, world: &World, scratch_dir: PathBuf) -> Result<Arc<dyn Source>, Failure> {
    check_kind(source)?;
    if source.kind == log::KIND {
        let rules = log::Rules { expire_after: source.expire_after, reread_every: source.reread_every };
        return Ok(Arc::new(log::Log::new(&source.path, rules, world.clone())));
    }
    if let Some(settings) = &source.postgres {
        return Ok(Arc::new(open_postgres(source, settings, world, scratch_dir)));
    }
    let limits = Limits { busy_timeout: source.busy_timeout, max_read_lock: source.max_read_lock, scratch_dir };
    Ok(Arc::new(sqlite::Sqlite::new(&source.path, limits, world.clone())))
}

fn server_of(settings: &PostgresSettings) -> postgres::Server {
    let url = settings.server.clone();
    postgres::Server { host: url.host, port: url.port, user: url.user, dbname: url.dbname }
}

/// What receives the log of a source; nothing is looked at yet.
pub fn open_receiver(
    settings: &Settings,
    name: &SourceName,
    slot: postgres::receive::SlotName,
    terms: postgres::receive::Terms,
) -> Result<postgres::receive::Receiver, Failure> {
    let source = settings.source(name.as_str());
    let Some((source, found)) = source.and_then(|source| Some((source, source.postgres.as_ref()?))) else {
        return Err(Failure::new(Code::Usage, format!("there is no source named {name} whose log can be received")));
    };
    let (data_dir, server, bin_dir) = (source.path.clone(), server_of(found), found.bin_dir.clone());
    Ok(postgres::receive::Receiver { source: name.clone(), data_dir, server, bin_dir, slot, terms })
}

fn open_postgres(
    source: &SourceSettings,
    settings: &PostgresSettings,
    world: &World,
    scratch_dir: PathBuf,
) -> postgres::Postgres {
    let server = server_of(settings);
    let rules = postgres::Rules {
        archive_wait: settings.archive_wait,
        read_limit_bytes: settings.read_limit_bytes,
        nice: settings.nice,
        bin_dir: settings.bin_dir.clone(),
        scratch_dir,
    };
    postgres::Postgres::new(&source.path, server, rules, world.clone())
}

/// A directory of logs in which a store or local state lies would grow with every snapshot of itself.
pub fn refuse_own_files(
    source: &SourceSettings,
    stores: &[StoreSettings],
    own_directories: &[&Path],
) -> Result<(), Failure> {
    if source.kind == sqlite::KIND {
        return Ok(());
    }
    let what = if source.kind == log::KIND { "log" } else { "data directory" };
    let store = store_specs(stores).into_iter().find(|spec| stores::lies_in(spec, &source.path));
    let own = own_directories.iter().find(|directory| stores::is_below(directory, &source.path));
    let inside = match (store, own) {
        (Some(store), _) => format!("store {} lies inside of it", store.name),
        (None, Some(own)) => format!("recoup keeps its own files in {}, inside of it", own.display()),
        (None, None) => return Ok(()),
    };
    Err(Failure::new(Code::Refused, format!("{} cannot be protected as a {what}", source.path.display()))
        .cause(inside)
        .safe("nothing was read or changed")
        .next_step("keep stores and recoup's own files outside of what is protected"))
}

fn check_kind(source: &SourceSettings) -> Result<(), Failure> {
    match source.kind.as_str() {
        sqlite::KIND | log::KIND | postgres::KIND => Ok(()),
        other => Err(Failure::new(Code::Configuration, format!("source {} has kind {other:?}", source.name))
            .cause("this build knows: sqlite, log, postgres")
            .safe("nothing was read or changed")
            .next_step("correct `kind` in recoup.toml")),
    }
}

/// One configuration is run by one user: the owner of its state directory, or of the configuration's while that is gone;
/// and by nobody while anybody may change it.
pub fn check_user(settings: &Settings) -> Result<(), Failure> {
    let directory = &settings.host.state_dir;
    let (owned, what, metadata) = match fs::metadata(directory) {
        Ok(metadata) => (directory.as_path(), "the state directory", metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = files::parent(&settings.file);
            let metadata = fs::metadata(folder).map_err(|error| unusable_state(directory, error))?;
            (folder, "the configuration's directory", metadata)
        }
        Err(error) => return Err(unusable_state(directory, error)),
    };
    let user = world::user_id();
    if metadata.uid() == user {
        check_hands(directory, "the state directory")?;
        return check_hands(&settings.file, "the configuration");
    }
    let owner = world::user_name(metadata.uid());
    Err(Failure::new(
        Code::Refused,
        format!("this configuration is run by user {owner}, not by {}", world::user_name(user)),
    )
    .cause(format!("{owner} owns {what} {}", owned.display()))
    .safe("nothing was read or changed")
    .next_step(format!("runuser -u {owner} -- recoup ...")))
}

/// Refuses what anybody on this host may change: whoever does, decides what is trusted, and what is shipped where.
fn check_hands(path: &Path, what: &str) -> Result<(), Failure> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o002 == 0 || metadata.file_type_is_pipe() {
        return Ok(());
    }
    let recursively = if metadata.is_dir() { "-R " } else { "" };
    Err(Failure::new(Code::Refused, format!("{what} {} is not used", path.display()))
        .cause(format!("its mode {mode:04o} lets anybody change it"))
        .safe("nothing was read or changed")
        .next_step(format!("look at what is in it, then chmod {recursively}o-w {}", path.display())))
}

/// Makes the state directory again if it is gone, and says whether it did. What was in it is no snapshot's loss.
///
/// Only where a slip in its path would show: the directory above exists and belongs to whom the configuration does.
pub fn provide_state_dir(settings: &Settings) -> Result<bool, Failure> {
    check_user(settings)?;
    let directory = &settings.host.state_dir;
    if directory.exists() {
        return Ok(false);
    }
    let owner = |path: &Path| fs::metadata(path).map(|metadata| metadata.uid());
    let above = files::parent(directory);
    match (owner(above), owner(&settings.file)) {
        (Ok(above), Ok(file)) if above == file => {}
        (Ok(above), Ok(_)) => {
            let cause = format!("it is gone, and the directory above belongs to user {}", world::user_name(above));
            return Err(unusable_state(directory, cause));
        }
        (Err(error), _) | (_, Err(error)) => return Err(unusable_state(directory, error)),
    }
    let made = fs::DirBuilder::new().mode(0o700).create(directory).and_then(|()| files::sync_directory(above));
    made.map(|()| true).map_err(|error| unusable_state(directory, error))
}

fn unusable_state(directory: &Path, cause: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Configuration, format!("the state directory {} cannot be used", directory.display()))
        .cause(cause)
        .safe("nothing was read or changed")
        .next_step("make it again, mode 0700, owned by the user who runs recoup; the next snapshot is then a full")
}

pub(super) fn read_host_key(path: &Path) -> Result<HostKey, Failure> {
    let text = read_secret(path, "the signing key")?;
    HostKey::from_openssh(&text).map_err(|error| unusable_key(path, "the signing key", &error.to_string()))
}

fn read_catalogue_key(path: &Path) -> Result<Option<Arc<CatalogueKey>>, Failure> {
    if !path.exists() {
        // Without it every snapshot is a full; nothing is lost.
        return Ok(None);
    }
    let text = read_secret(path, "the catalogue key")?;
    let unusable = |error: String| unusable_key(path, "the catalogue key", &error);
    let identities = Identities::parse(&text).map_err(|error| unusable(error.to_string()))?;
    let recipients = Recipients::parse(identities.recipients()).map_err(|error| unusable(error.to_string()))?;
    Ok(Some(Arc::new(CatalogueKey { identities, recipients, text })))
}

/// The identity that reads names and structure of this host's own snapshots, and the bodies of its evidence.
pub fn catalogue_identities(settings: &Settings) -> Result<Option<Identities>, Failure> {
    if !settings.host.catalogue.exists() {
        return Ok(None);
    }
    let text = read_secret(&settings.host.catalogue, "the catalogue key")?;
    Identities::parse(&text)
        .map(Some)
        .map_err(|error| unusable_key(&settings.host.catalogue, "the catalogue key", &error.to_string()))
}

/// The custodian's identity.
pub async fn read_identities(input: &IdentityInput) -> Result<Identities, Failure> {
    let (text, what) = match input {
        IdentityInput::File(path) => (read_secret(path, "the identity")?, format!("the identity {}", path.display())),
        IdentityInput::Command(command) => {
            let printed = world::shell_output(command).await.map_err(|cause| {
                Failure::new(Code::NoKey, format!("the command in {IDENTITY_COMMAND} gave no identity"))
                    .cause(cause)
                    .safe("nothing was read or changed")
                    .next_step("run that command by hand; it must print the identity and exit 0")
            })?;
            (printed, "the identity that the command printed".to_owned())
        }
    };
    Identities::parse(&text).map_err(|error| {
        let next_step = match error {
            InvalidIdentity::Encrypted => {
                "open it first: an age file with RECOUP_IDENTITY_COMMAND='age -d FILE', an OpenSSH key by taking the \
                 passphrase off a copy of it (ssh-keygen -p); then run the same command again"
            }
            _ => "name the custodian's identity file with --identity",
        };
        Failure::new(Code::NoKey, format!("{what} cannot be used"))
            .cause(error)
            .safe("nothing was changed")
            .next_step(next_step)
    })
}

/// How long a file of keys may be.
const SECRET_BYTES_MAX: u64 = 1024 * 1024;

/// Reads a key that nobody else may read.
fn read_secret(path: &Path, what: &str) -> Result<String, Failure> {
    let failure = |cause: String, next_step: String| {
        Failure::new(Code::NoKey, format!("{what} {} cannot be used", path.display()))
            .cause(cause)
            .safe("nothing was changed")
            .next_step(next_step)
    };
    let metadata = fs::metadata(path).map_err(|error| {
        let next_step = match error.kind() {
            io::ErrorKind::NotFound => "name the right file, or bring it back from where it is kept".to_owned(),
            _ => format!("give user {} access to it", world::user_name(world::user_id())),
        };
        failure(error.to_string(), next_step)
    })?;
    if !metadata.is_file() && !metadata.file_type_is_pipe() {
        return Err(failure("it is no regular file".to_owned(), "name the right file".to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(failure(
            format!("its mode {mode:04o} lets others read it"),
            format!("chmod 600 {}; if others may have read it, replace the key", path.display()),
        ));
    }
    if metadata.len() > SECRET_BYTES_MAX {
        return Err(failure("it is larger than any key".to_owned(), "name the right file".to_owned()));
    }
    // Only the shell's own pipes are read beside files: one that lies in a directory may have no writer for ever.
    let read = files::open_given(path).and_then(|file| {
        let mut text = String::new();
        file.take(SECRET_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    });
    read.map_err(|error| match error.kind() {
        io::ErrorKind::Other => failure(error.to_string(), "name the right file".to_owned()),
        _ => failure(error.to_string(), "make it readable for this user".to_owned()),
    })
}

trait IsPipe {
    fn file_type_is_pipe(&self) -> bool;
}

impl IsPipe for fs::Metadata {
    /// Process substitution hands keys over through pipes.
    fn file_type_is_pipe(&self) -> bool {
        use std::os::unix::fs::FileTypeExt;
        self.file_type().is_fifo()
    }
}

fn unusable_key(path: &Path, what: &str, error: &str) -> Failure {
    Failure::new(Code::NoKey, format!("{what} {} cannot be used", path.display()))
        .cause(error)
        .safe("nothing was changed")
        .next_step("bring it back from where it is kept")
}

/// Reads a file of trusted signers.
pub fn read_signers(path: &Path, next_step: &str) -> Result<Signers, Failure> {
    let failure = |cause: String| {
        Failure::new(Code::NoKey, format!("the trusted signers {} cannot be used", path.display()))
            .cause(cause)
            .safe("nothing was changed; without signers nothing can be trusted")
            .next_step(next_step)
    };
    check_hands(path, "the file of trusted signers")?;
    let mut text = String::new();
    let read = files::open_given(path).and_then(|mut file| file.read_to_string(&mut text));
    read.map_err(|error| failure(error.to_string()))?;
    Signers::parse(&text).map_err(|error| failure(error.to_string()))
}
