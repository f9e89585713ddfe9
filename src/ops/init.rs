//! Founds a repository: probe everything, then keys, stores, and the configuration last.
//!
//! The configuration is what makes it done. A marker in the state directory lets the same `init` finish after a
//! crash, under the same repository id.

use super::{
    evidence::deeds,
    open::{refuse_own_files, store_spec, store_specs},
};
use crate::{
    config::{self, NewConfiguration, SourceSettings, StoreSettings},
    core::{
        evidence::{Action, Draft, Verdict},
        failure::{Code, Failure},
        id::RepositoryId,
        result::{InitResult, InitSchema},
        time::Timestamp,
    },
    format::{
        self,
        seal::{Recipients, new_identity},
        signature::{self, HostKey},
    },
    repository::{
        head::{self, FORMAT_VERSION, Head, StoreStatus},
        layout, recovery,
    },
    stores::{self, Store, StoreError, refuse_aliases},
    world::{self, World, files},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    fmt::Display,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// What to found.
#[derive(Clone, Debug)]
pub struct InitRequest {
    /// Where the configuration goes; everything else goes beside it.
    pub config: PathBuf,
    /// The stores.
    pub stores: Vec<StoreSettings>,
    /// The sources; they need not answer yet.
    pub sources: Vec<SourceSettings>,
    /// Public keys of custodians.
    pub recipients: Vec<String>,
    /// Where a new custodian's identity goes.
    pub new_identity: Option<PathBuf>,
}

/// Left in the state directory while an `init` is under way.
#[derive(Serialize, Deserialize)]
struct Marker {
    repository: RepositoryId,
    created_at: Timestamp,
    identity: Option<PathBuf>,
}

/// Founds the repository.
pub async fn init(world: &World, request: &InitRequest) -> Result<InitResult, Failure> {
    let mut init = Init::probe(world, request)?;
    init.probe_stores().await?;
    init.begin()?;
    let recipients = init.write_keys()?;
    let mut overwriting = Vec::new();
    for store in &request.stores {
        if !init.write_store(store).await? {
            overwriting.push(store.name.as_str());
        }
    }
    let text = init.write_policies(&recipients)?;
    let mut remarks = init.remarks(&recipients, &overwriting);
    remarks.extend(init.record(&text).await);
    init.write_configuration(&text)?;
    Ok(InitResult {
        schema: InitSchema,
        repository: init.marker.repository,
        config: request.config.display().to_string(),
        stores: request.stores.iter().map(|store| store.name.clone()).collect(),
        identity: request.new_identity.as_ref().map(|path| path.display().to_string()),
        recover_sh_sha256: format::sha256(recovery::SCRIPT.as_bytes()),
        remarks,
    })
}

struct Init<'a> {
    world: &'a World,
    request: &'a InitRequest,
    directory: PathBuf,
    marker: Marker,
    resumed: bool,
}

impl<'a> Init<'a> {
    /// Leaves the first record of the repository. What keeps it from that is told, and undoes nothing.
    async fn record(&self, text: &str) -> Vec<String> {
        let recorder = match config::load_text(text, &self.request.config) {
            Ok(settings) => deeds::recorder(&settings, self.world),
            Err(failure) => Err(failure.to_string()),
        };
        match recorder {
            // An init that was broken off has left it already.
            Ok(recorder) if recorder.has_records() => deeds::shipping_notes(&recorder).await,
            Ok(recorder) => {
                let draft = Draft::new(Action::Init, Verdict::Passed, self.marker.created_at);
                deeds::leave(&recorder, draft).await
            }
            Err(why) => vec![why],
        }
    }

    /// Looks at everything local; writes nothing.
    fn probe(world: &'a World, request: &'a InitRequest) -> Result<Self, Failure> {
        Recipients::parse(&request.recipients).map_err(|error| {
            Failure::new(Code::Usage, "a recipient is not valid")
                .cause(error)
                .safe("nothing was written")
                .next_step("recoup init --help")
        })?;
        let directory = files::parent(&request.config).to_owned();
        if fs::symlink_metadata(&request.config).is_ok() {
            return Err(refuse(request.config.display(), "there is a configuration already")
                .next_step(format!("use it: recoup --config {} doctor", request.config.display())));
        }
        let marker = read_marker(&directory)?;
        let resumed = marker.is_some();
        let marker = marker.unwrap_or_else(|| Marker {
            repository: world.new_id(),
            created_at: world.now(),
            identity: request.new_identity.clone(),
        });
        if marker.identity != request.new_identity {
            return Err(refuse(directory.display(), "another init was begun here with another --new-identity")
                .next_step("run the init that was begun, or start in an empty directory"));
        }
        let init = Init { world, request, directory, marker, resumed };
        if !resumed {
            init.refuse_existing()?;
        }
        init.refuse_places()?;
        init.probe_directory()?;
        Ok(init)
    }

    /// Keys must not lie where snapshots are kept, and a store must not hold what it protects.
    fn refuse_places(&self) -> Result<(), Failure> {
        let mut outside = vec![("the configuration", self.directory.clone())];
        outside.extend(self.request.new_identity.as_ref().map(|file| ("the identity", files::parent(file).to_owned())));
        outside.extend(self.request.sources.iter().map(|source| ("a source", source.path.clone())));
        for source in &self.request.sources {
            refuse_own_files(source, &self.request.stores, &[&self.directory])?;
        }
        for spec in store_specs(&self.request.stores) {
            if let Some((what, path)) = outside.iter().find(|(_, path)| stores::holds(&spec, path)) {
                return Err(refuse(path.display(), &format!("{what} would lie inside of store {}", spec.name))
                    .next_step("give the store a directory of its own"));
            }
        }
        Ok(())
    }

    fn host_files(&self) -> [PathBuf; 4] {
        ["host_ed25519", "host_ed25519.pub", "catalogue.age", "allowed_signers"].map(|name| self.directory.join(name))
    }

    fn identity_files(&self) -> Vec<PathBuf> {
        let Some(identity) = &self.request.new_identity else { return Vec::new() };
        vec![identity.clone(), config::signers_beside(identity)]
    }

    fn script_path(&self) -> Option<PathBuf> {
        Some(files::parent(self.request.new_identity.as_ref()?).join(layout::RECOVERY_SCRIPT))
    }

    /// Keys are never overwritten, not even by mistake.
    fn refuse_existing(&self) -> Result<(), Failure> {
        for path in self.host_files().into_iter().chain(self.identity_files()) {
            if fs::symlink_metadata(&path).is_ok() {
                return Err(refuse(path.display(), "it exists already; keys are never overwritten")
                    .next_step("choose another directory or file, or move it away if it is not needed"));
            }
        }
        Ok(())
    }

    fn probe_directory(&self) -> Result<(), Failure> {
        let identity_dir = self.request.new_identity.as_ref().map(|path| files::parent(path).to_owned());
        for directory in [Some(self.directory.clone()), identity_dir].into_iter().flatten() {
            let existing = directory.ancestors().find(|ancestor| ancestor.exists()).map(Path::to_owned);
            let existing = existing.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from("."));
            rustix::fs::access(&existing, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
                .map_err(|error| local_failure("write to", &existing, &error.into()))?;
        }
        if let Some(script) = self.script_path()
            && files::read(&script).is_ok_and(|found| found != recovery::SCRIPT.as_bytes())
        {
            return Err(refuse(script.display(), "another file of this name is there")
                .next_step("put the identity into a directory of its own"));
        }
        Ok(())
    }

    /// Looks at all stores; writes nothing.
    async fn probe_stores(&self) -> Result<(), Failure> {
        let specs = store_specs(&self.request.stores);
        refuse_aliases(&specs, Code::Refused)?;
        for spec in &specs {
            let Some(store) = stores::examine(spec).await? else { continue };
            match head::status(&store, self.marker.repository).await {
                StoreStatus::Ready => {}
                StoreStatus::Empty if self.resumed && begun_only(&store).await? => {}
                StoreStatus::Empty => {
                    let why = format!("store {}: it is not empty and holds no repository", spec.name);
                    return Err(refuse(spec.shown(), &why).next_step("name an empty or a new place"));
                }
                status => return Err(status.failure(&spec.name)),
            }
        }
        Ok(())
    }

    /// From here on something is written; the marker lets the same command finish it.
    fn begin(&mut self) -> Result<(), Failure> {
        let state = self.directory.join("state");
        files::create_private_directories(&state).map_err(|error| local_failure("create", &state, &error))?;
        if let Some(identity) = &self.request.new_identity {
            let parent = files::parent(identity);
            files::create_private_directories(parent).map_err(|error| local_failure("create", parent, &error))?;
        }
        if !self.resumed {
            let bytes = serde_json::to_vec(&self.marker).expect("a marker has no map");
            let path = marker_path(&self.directory);
            files::write_atomic(&path, &bytes, 0o600).map_err(|error| local_failure("write", &path, &error))?;
        }
        Ok(())
    }

    /// Writes the keys that are not there yet; returns all recipients.
    fn write_keys(&self) -> Result<Vec<String>, Failure> {
        let [key_path, public_path, catalogue, allowed] = self.host_files();
        let comment = format!("recoup@{}", world::host_name());
        let key = match files::read_to_string(&key_path) {
            Ok(text) => HostKey::from_openssh(&text).map_err(|error| refuse(key_path.display(), &error.to_string()))?,
            Err(_) => {
                let key = HostKey::generate(self.world.random(), &comment);
                write_file(&key_path, key.to_openssh().as_bytes(), 0o600)?;
                key
            }
        };
        write_file(&public_path, format!("{}\n", key.public_line()).as_bytes(), 0o644)?;
        let created = self.marker.created_at.to_string();
        if !catalogue.exists() {
            let (identity, _) = new_identity(&created);
            write_file(&catalogue, identity.as_bytes(), 0o600)?;
        }
        let roles = [
            signature::INVENTORY,
            signature::LOG,
            signature::EVIDENCE,
            signature::PRUNE,
            signature::KEYS,
            signature::REPORT,
        ];
        let principals = format!("*@{}", self.marker.repository);
        let signers = format!("{}\n", key.signers_line(&principals, &roles));
        write_file(&allowed, signers.as_bytes(), 0o644)?;
        let mut recipients = self.request.recipients.clone();
        if let Some(identity) = &self.request.new_identity {
            recipients.push(self.write_identity(identity, &created)?);
            write_file(&config::signers_beside(identity), signers.as_bytes(), 0o644)?;
        }
        if let Some(script) = self.script_path() {
            write_file(&script, recovery::SCRIPT.as_bytes(), 0o755)?;
        }
        Ok(recipients)
    }

    fn write_identity(&self, path: &Path, created: &str) -> Result<String, Failure> {
        if let Ok(text) = files::read_to_string(path) {
            let identities = crate::format::seal::Identities::parse(&text)
                .map_err(|error| refuse(path.display(), &error.to_string()))?;
            return identities
                .recipients()
                .first()
                .cloned()
                .ok_or_else(|| refuse(path.display(), "it holds no identity"));
        }
        let (identity, recipient) = new_identity(created);
        write_file(path, identity.as_bytes(), 0o600)?;
        Ok(recipient)
    }

    /// Writes what makes it a store of the repository; says whether it keeps that from being overwritten.
    async fn write_store(&self, settings: &StoreSettings) -> Result<bool, Failure> {
        let store = stores::found(&store_spec(settings))?;
        let head = Head {
            format_version: FORMAT_VERSION,
            repository: self.marker.repository,
            created_at: self.marker.created_at,
        };
        let head = Bytes::from(head.to_bytes());
        let clear = recovery::files().map(|(name, content)| (name, Bytes::from_static(content.as_bytes())));
        let failed = |error: StoreError| {
            error.failure().next_step("put the store right, then run the same init again: it finishes what was begun")
        };
        // The head comes last: a store without it is no store of the repository yet.
        for (name, bytes) in clear.into_iter().chain([(layout::REPOSITORY, head.clone())]) {
            let sha256 = format::sha256(&bytes);
            store.create(name, bytes, &sha256).await.map_err(failed)?;
        }
        let sha256 = format::sha256(&head);
        store.keeps_what_is_there(layout::REPOSITORY, head, &sha256).await.map_err(failed)
    }

    /// Writes the policies; returns the text of the configuration that goes with them.
    fn write_policies(&self, recipients: &[String]) -> Result<String, Failure> {
        let text = config::render(&NewConfiguration {
            repository: self.marker.repository,
            recipients: recipients.to_vec(),
            stores: self.request.stores.clone(),
            sources: self.request.sources.clone(),
        });
        let policies = self.directory.join("policies");
        // Whoever can write there sets the policies, whatever the umask was.
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&policies);
        made.map_err(|error| local_failure("create", &policies, &error))?;
        write_file(&policies.join("default.toml"), config::DEFAULT_POLICY_TEXT.as_bytes(), 0o644)?;
        files::sync_directory(&policies).map_err(|error| local_failure("sync", &policies, &error))?;
        Ok(text)
    }

    fn write_configuration(&self, text: &str) -> Result<(), Failure> {
        files::write_atomic(&self.request.config, text.as_bytes(), 0o644)
            .map_err(|error| local_failure("write", &self.request.config, &error))?;
        let marker = marker_path(&self.directory);
        fs::remove_file(&marker)
            .and_then(|()| files::sync_directory(files::parent(&marker)))
            .map_err(|error| local_failure("remove", &marker, &error))
    }

    /// Remarks on posture: they never change an exit code.
    fn remarks(&self, recipients: &[String], overwriting: &[&str]) -> Vec<String> {
        let mut remarks = Vec::new();
        for store in overwriting {
            remarks.push(format!(
                "store {store} overwrites objects even when asked not to: set conditional_create = false for it"
            ));
        }
        if recipients.len() < 2 {
            remarks.push("there is one custodian only: losing that identity loses every snapshot".to_owned());
        }
        if let Some(identity) = &self.request.new_identity {
            remarks.push(format!(
                "the identity {} is on this host: move it, its .signers file and recover.sh away",
                identity.display()
            ));
        }
        let shared = stores::shared(&store_specs(&self.request.stores));
        if let Some(shared) = shared.iter().find(|shared| shared.stores.len() == self.request.stores.len()) {
            remarks.push(format!("all stores are {}: losing it loses every copy", shared.what.place()));
        }
        if self.request.stores.len() == 1 {
            remarks.push("there is one store only: nothing can heal it".to_owned());
        }
        // The policy that is written promises nothing: what the operator wants to promise, nobody else can know.
        remarks.push("no policy promises anything yet: set rpo and rto in policies/default.toml".to_owned());
        remarks
    }
}

fn marker_path(directory: &Path) -> PathBuf {
    directory.join("state").join("init.json")
}

fn read_marker(directory: &Path) -> Result<Option<Marker>, Failure> {
    let path = marker_path(directory);
    match files::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| refuse(path.display(), &error.to_string()).next_step("start in an empty directory")),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(local_failure("read", &path, &error)),
    }
}

/// Writes a file that is not there yet; one that is there must be the same.
fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    match files::read(path) {
        Ok(found) if found == bytes => return Ok(()),
        Ok(_) => return Err(refuse(path.display(), "it exists with other content")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(local_failure("read", path, &error)),
    }
    // Written beside it and renamed, so that a crash leaves no half of a key.
    files::write_atomic(path, bytes, mode).map_err(|error| local_failure("write", path, &error))
}

/// Whether a store without a head holds nothing but what a founding writes before the head. Whether that has the right
/// content is seen when it is written again: nothing is overwritten.
async fn begun_only(store: &Store) -> Result<bool, Failure> {
    let found = store.listing("").await.map_err(|error| error.failure().safe("nothing was written anywhere"))?;
    let written_first = recovery::files().map(|(name, _)| name);
    Ok(found.foreign == 0 && found.objects.iter().all(|(key, _)| written_first.contains(&key.as_str())))
}

fn refuse(place: impl Display, why: &str) -> Failure {
    Failure::new(Code::Refused, format!("init refuses to touch {place}")).cause(why).safe("nothing was overwritten")
}

fn local_failure(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(Code::Failed, format!("cannot {what} {}", path.display()))
        .cause(error)
        .safe("nothing that existed was changed")
        .next_step("put it right, then run the same init again")
}
