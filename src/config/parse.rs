//! From text to settings.

use super::{
    Host, Origin, Origins, Settings, SourceSettings, StoreSettings, StoreUrl,
    document::{Document, FILE_BYTES_MAX, Found, Known, Section},
    lookup::as_its_owner,
    policy::{BUILT_IN, DEFAULT_POLICY, LoadedPolicy, load_policy},
    postgres::{ARCHIVE_WAIT_DEFAULT, PostgresSettings, ServerUrl},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::{RunId, SourceName},
        s3,
        time::parse_duration,
    },
    world::files,
};
use std::{
    collections::BTreeMap,
    fmt::Display,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

const TOP: &[&str] = &["repository", "host", "encryption", "compression", "spool", "store", "source"];
const REPOSITORY: &[&str] = &["id"];
const HOST: &[&str] = &["state_dir", "signing_key", "catalogue", "allowed_signers"];
const ENCRYPTION: &[&str] = &["recipients"];
const COMPRESSION: &[&str] = &["level"];
const SPOOL: &[&str] = &["limit"];
const STORE: &[&str] = &[
    "name",
    "url",
    "provider",
    "region",
    "mounted",
    "endpoint",
    "path_style",
    "allow_http",
    "conditional_create",
    "credentials_env",
];
const S3_KEYS: &[&str] = &["endpoint", "path_style", "allow_http", "conditional_create", "credentials_env"];
const SOURCE: &[&str] = &[
    "name",
    "kind",
    "policy",
    "path",
    "busy_timeout",
    "max_read_lock",
    "expire_after",
    "reread_every",
    "data_dir",
    "url",
    "bin_dir",
    "archive_wait",
    "read_limit",
    "nice",
];
/// The keys that mean something for sources of one kind only.
const KEYS_OF_KINDS: &[(&str, &[&str])] = &[
    ("sqlite", &["busy_timeout", "max_read_lock"]),
    (LOG, &["expire_after", "reread_every"]),
    (POSTGRES, &["data_dir", "url", "bin_dir", "archive_wait", "read_limit", "nice"]),
];

/// Every section of `recoup.toml` and its keys; the first is the top of the file.
pub const KNOWN: Known = &[
    ("", TOP),
    ("[repository]", REPOSITORY),
    ("[host]", HOST),
    ("[encryption]", ENCRYPTION),
    ("[compression]", COMPRESSION),
    ("[spool]", SPOOL),
    ("[[store]]", STORE),
    ("[[source]]", SOURCE),
];

pub(super) const LEVEL_DEFAULT: u32 = 1;
pub(super) const SPOOL_LIMIT_DEFAULT: u64 = 4 << 30;
const SPOOL_LIMIT_MIN: u64 = 64 << 20;
pub(super) const BUSY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
pub(super) const MAX_READ_LOCK_DEFAULT: Duration = Duration::from_secs(10);

pub(super) const REREAD_EVERY_DEFAULT: Duration = Duration::from_secs(7 * 86_400);

/// The kind of directories of append-only logs.
pub(super) const LOG: &str = "log";
/// The kind of PostgreSQL servers.
pub const POSTGRES: &str = "postgres";
/// The kinds of source that this build can protect.
const KINDS: &[&str] = &["sqlite", LOG, POSTGRES];
/// The kinds that other builds can.
const KINDS_ELSEWHERE: &[&str] = &["mariadb"];

/// Gives file and text of the policy of a name, if there is such a file.
pub type ReadPolicy<'r> = dyn Fn(&str) -> Result<Option<(PathBuf, String)>, Failure> + 'r;

/// Reads a configuration file and the policies it names.
pub fn load(file: &Path) -> Result<Settings, Failure> {
    load_text(&read_text(file)?, file)
}

/// The same for what a configuration file says or is going to say.
pub fn load_text(text: &str, file: &Path) -> Result<Settings, Failure> {
    let dir = file.parent().unwrap_or(Path::new(".")).to_owned();
    parse(text, file, &|name| {
        let policy_file = dir.join("policies").join(format!("{name}.toml"));
        // Only a file that certainly is not there gives way to a built-in policy.
        match std::fs::symlink_metadata(&policy_file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => read_text(&policy_file).map(|text| Some((policy_file, text))),
        }
    })
}

/// Reads a configuration from its text, and the policies it names.
pub fn parse(text: &str, file: &Path, read_policy: &ReadPolicy<'_>) -> Result<Settings, Failure> {
    let document = Document { file, built_in: false, text };
    let mut reading = Reading { document, dir: file.parent().unwrap_or(Path::new(".")), origins: Origins::default() };
    let mut top = document.parse(TOP, KNOWN)?;
    let repository = reading.repository(&mut top)?;
    let host = reading.host(&mut top)?;
    let recipients = reading.recipients(&mut top)?;
    let (compression_level, spool_limit_bytes) = reading.work(&mut top)?;
    let stores = reading.stores(&mut top)?;
    let sources = reading.sources(&mut top)?;
    let mut policies = BTreeMap::new();
    for source in &sources {
        if !policies.contains_key(&source.policy) {
            policies.insert(source.policy.clone(), reading.policy(source, read_policy)?);
        }
    }
    let Reading { origins, .. } = reading;
    let settings = Settings {
        file: file.to_owned(),
        repository,
        host,
        recipients,
        compression_level,
        spool_limit_bytes,
        stores,
        sources,
        policies,
        origins,
    };
    for policy in settings.policies.values() {
        policy.check_against(&settings)?;
    }
    Ok(settings)
}

struct Reading<'t> {
    document: Document<'t>,
    dir: &'t Path,
    origins: Origins,
}

impl Reading<'_> {
    /// The value that was found, or the default; either way its origin is noted.
    fn or<T>(&mut self, key: String, found: Option<Found<T>>, default: T) -> T {
        match found {
            Some((value, line)) => {
                self.origins.note(key, self.document.origin(line));
                value
            }
            None => {
                self.origins.note(key, Origin::Default);
                default
            }
        }
    }

    fn repository(&mut self, top: &mut Section<'_>) -> Result<Option<RunId>, Failure> {
        let mut section = top.table("repository", "[repository]", REPOSITORY)?;
        let id = section.parsed("id", str::parse::<RunId>)?.map(|(id, line)| (Some(id), line));
        Ok(self.or("repository.id".to_owned(), id, None))
    }

    fn host(&mut self, top: &mut Section<'_>) -> Result<Host, Failure> {
        let mut section = top.table("host", "[host]", HOST)?;
        let mut path = |key: &str, default: &str| -> Result<PathBuf, Failure> {
            let found = section.text(key)?;
            Ok(self.dir.join(self.or(format!("host.{key}"), found, default.to_owned())))
        };
        Ok(Host {
            state_dir: path("state_dir", "state")?,
            signing_key: path("signing_key", "host_ed25519")?,
            catalogue: path("catalogue", "catalogue.age")?,
            allowed_signers: path("allowed_signers", "allowed_signers")?,
        })
    }

    fn recipients(&mut self, top: &mut Section<'_>) -> Result<Vec<String>, Failure> {
        let mut section = top.table("encryption", "[encryption]", ENCRYPTION)?;
        let found = section.texts("recipients")?;
        let line = found.as_ref().map_or(1, |(_, line)| *line);
        let recipients = self.or("encryption.recipients".to_owned(), found, Vec::new());
        if recipients.is_empty() {
            let cause = "without a recipient in [encryption] nobody could ever read a snapshot";
            return Err(self.document.failure(line, "there is no recipient", cause));
        }
        if let Some(twice) = first_repeated(recipients.iter()) {
            let cause = format!("{twice:?} stands there twice");
            return Err(section.wrong("recipients", line, cause));
        }
        Ok(recipients)
    }

    fn work(&mut self, top: &mut Section<'_>) -> Result<(i32, u64), Failure> {
        let level = top.table("compression", "[compression]", COMPRESSION)?.integer("level", 1..=19)?;
        let level = self.or("compression.level".to_owned(), level, LEVEL_DEFAULT);
        let limit = top.table("spool", "[spool]", SPOOL)?.parsed("limit", parse_bytes)?;
        let limit = self.or("spool.limit".to_owned(), limit, SPOOL_LIMIT_DEFAULT);
        Ok((i32::try_from(level).expect("at most 19"), limit))
    }

    fn stores(&mut self, top: &mut Section<'_>) -> Result<Vec<StoreSettings>, Failure> {
        let mut stores: Vec<StoreSettings> = Vec::new();
        for (section, line) in top.tables("store", "[[store]]", STORE)? {
            let (store, lines) = self.store(section, line)?;
            if let Some(twin) = stores.iter().find(|other| other.name == store.name) {
                let message = format!("there are two stores named {:?}", twin.name);
                return Err(self.document.failure(lines.0, message, "names tell stores apart in every output"));
            }
            if let Some(other) = stores.iter().find(|other| other.overlaps(&store)) {
                let message = format!("stores {:?} and {:?} are one place", other.name, store.name);
                let what = if store.url.is_s3() { "place in one bucket" } else { "directory" };
                let cause = format!("{} and {} are the same {what} or one inside the other", other.url, store.url);
                return Err(self.document.failure(lines.1, message, cause));
            }
            stores.push(store);
        }
        if stores.is_empty() {
            let cause = "without a [[store]] there is nowhere to keep snapshots";
            return Err(self.document.failure(1, "there is no store", cause));
        }
        Ok(stores)
    }

    /// A store, and the lines of its name and URL.
    fn store(&mut self, mut section: Section<'_>, line: u32) -> Result<(StoreSettings, (u32, u32)), Failure> {
        let name = section.parsed("name", parse_store_name)?;
        let name = section.required(name, "name", line)?;
        let url = section.parsed("url", str::parse::<StoreUrl>)?;
        let url = section.required(url, "url", line)?;
        let lines = (name.1, url.1);
        let prefix = format!("store.{}", name.0);
        self.origins.note(format!("{prefix}.name"), self.document.origin(lines.0));
        self.origins.note(format!("{prefix}.url"), self.document.origin(lines.1));
        section.refuse_keys_of_others(&url.0)?;
        let some = |(text, line)| (Some(text), line);
        let mut store = StoreSettings::new(name.0, url.0);
        store.provider = self.or(format!("{prefix}.provider"), section.text("provider")?.map(some), None);
        store.region = self.or(format!("{prefix}.region"), section.text("region")?.map(some), None);
        store.mounted = self.or(format!("{prefix}.mounted"), section.boolean("mounted")?, false);
        if store.url.is_s3() {
            store.s3 = self.s3(&mut section, &prefix)?;
            if let Some((key, why)) = store.s3.contradiction(store.region.as_deref()) {
                let line = match self.origins.of(&format!("{prefix}.{key}")) {
                    Origin::File { line, .. } => line,
                    _ => lines.1,
                };
                return Err(section.wrong(key, line, why));
            }
        }
        Ok((store, lines))
    }

    fn s3(&mut self, section: &mut Section<'_>, prefix: &str) -> Result<s3::Options, Failure> {
        let usual = s3::Options::default();
        let key = |name: &str| format!("{prefix}.{name}");
        let endpoint = section.parsed("endpoint", str::parse::<s3::Endpoint>)?.map(|(value, line)| (Some(value), line));
        let path_style = section.boolean("path_style")?.map(|(value, line)| (Some(value), line));
        let credentials_env = section.parsed("credentials_env", s3::parse_credentials_env)?;
        let credentials_env = credentials_env.map(|(value, line)| (Some(value), line));
        Ok(s3::Options {
            endpoint: self.or(key("endpoint"), endpoint, usual.endpoint),
            path_style: self.or(key("path_style"), path_style, usual.path_style),
            allow_http: self.or(key("allow_http"), section.boolean("allow_http")?, usual.allow_http),
            conditional_create: self.or(
                key("conditional_create"),
                section.boolean("conditional_create")?,
                usual.conditional_create,
            ),
            credentials_env: self.or(key("credentials_env"), credentials_env, usual.credentials_env),
        })
    }

    fn sources(&mut self, top: &mut Section<'_>) -> Result<Vec<SourceSettings>, Failure> {
        let mut sources: Vec<SourceSettings> = Vec::new();
        for (section, line) in top.tables("source", "[[source]]", SOURCE)? {
            let (source, name_line) = self.source(section, line)?;
            if sources.iter().any(|other| other.name == source.name) {
                let message = format!("there are two sources named {:?}", source.name.as_str());
                let cause = "a source's name is where its snapshots are kept";
                return Err(self.document.failure(name_line, message, cause));
            }
            sources.push(source);
        }
        Ok(sources)
    }

    fn source(&mut self, mut section: Section<'_>, line: u32) -> Result<(SourceSettings, u32), Failure> {
        let name = section.parsed("name", str::parse::<SourceName>)?;
        let (name, name_line) = section.required(name, "name", line)?;
        let kind = section.parsed("kind", parse_kind)?;
        let (kind, kind_line) = section.required(kind, "kind", line)?;
        section.refuse_keys_of_other_kinds(&kind)?;
        let path_key = if kind == POSTGRES { "data_dir" } else { "path" };
        let path = section.parsed(path_key, parse_source_path)?;
        let (path, path_line) = section.required(path, path_key, line)?;
        let prefix = format!("source.{name}");
        for (key, line) in [("name", name_line), ("kind", kind_line), (path_key, path_line)] {
            self.origins.note(format!("{prefix}.{key}"), self.document.origin(line));
        }
        let postgres = if kind == POSTGRES { Some(self.postgres(&mut section, &prefix)?) } else { None };
        let policy = section.parsed("policy", |text| text.parse::<SourceName>().map(|name| name.to_string()))?;
        let busy_timeout = section.parsed("busy_timeout", parse_duration)?;
        let max_read_lock = section.parsed("max_read_lock", parse_positive_duration)?;
        let expire_after =
            section.parsed("expire_after", parse_positive_duration)?.map(|(age, line)| (Some(age), line));
        let reread_every = section.parsed("reread_every", parse_positive_duration)?;
        let source = SourceSettings {
            name,
            kind,
            path,
            policy: self.or(format!("{prefix}.policy"), policy, DEFAULT_POLICY.to_owned()),
            busy_timeout: self.or(format!("{prefix}.busy_timeout"), busy_timeout, BUSY_TIMEOUT_DEFAULT),
            max_read_lock: self.or(format!("{prefix}.max_read_lock"), max_read_lock, MAX_READ_LOCK_DEFAULT),
            expire_after: self.or(format!("{prefix}.expire_after"), expire_after, None),
            reread_every: self.or(format!("{prefix}.reread_every"), reread_every, REREAD_EVERY_DEFAULT),
            postgres,
        };
        Ok((source, name_line))
    }

    fn postgres(&mut self, section: &mut Section<'_>, prefix: &str) -> Result<PostgresSettings, Failure> {
        let key = |name: &str| format!("{prefix}.{name}");
        let server = section.parsed("url", ServerUrl::parse)?;
        let bin_dir = section.parsed("bin_dir", parse_source_path)?.map(|(path, line)| (Some(path), line));
        let archive_wait = section.parsed("archive_wait", parse_positive_duration)?;
        let read_limit = section.parsed("read_limit", parse_rate)?.map(|(bytes, line)| (Some(bytes), line));
        let nice = section.integer("nice", 0..=19)?;
        Ok(PostgresSettings {
            server: self.or(key("url"), server, ServerUrl::default()),
            bin_dir: self.or(key("bin_dir"), bin_dir, None),
            archive_wait: self.or(key("archive_wait"), archive_wait, ARCHIVE_WAIT_DEFAULT),
            read_limit_bytes: self.or(key("read_limit"), read_limit, None),
            nice: self.or(key("nice"), nice, 0),
        })
    }

    fn policy(&mut self, source: &SourceSettings, read: &ReadPolicy<'_>) -> Result<LoadedPolicy, Failure> {
        if let Some(policy) = load_policy(&source.policy, self.dir, read, &mut self.origins)? {
            return Ok(policy);
        }
        let line = match self.origins.of(&format!("source.{}.policy", source.name)) {
            Origin::File { line, .. } => line,
            _ => 1,
        };
        let file = self.dir.join("policies").join(format!("{}.toml", source.policy));
        let message = format!("source {:?} names the policy {:?}, which there is not", source.name, source.policy);
        let built_in: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        let cause = format!("{} does not exist; built in are {}", file.display(), built_in.join(", "));
        Err(self.document.failure(line, message, cause))
    }
}

impl Section<'_> {
    /// What means nothing for a store of this kind is a mistake, not a remark.
    fn refuse_keys_of_others(&self, url: &StoreUrl) -> Result<(), Failure> {
        let (others, of): (&[&str], _) = if url.is_s3() { (&["mounted"], "file://") } else { (S3_KEYS, "s3://") };
        match others.iter().find_map(|key| Some((key, self.line_of(key)?))) {
            Some((key, line)) => Err(self.wrong(key, line, format!("it is for {of} stores"))),
            None => Ok(()),
        }
    }
}

impl Section<'_> {
    /// What means nothing for a source of this kind is a mistake, too.
    fn refuse_keys_of_other_kinds(&self, kind: &str) -> Result<(), Failure> {
        if kind == POSTGRES
            && let Some(line) = self.line_of("path")
        {
            return Err(self.wrong("path", line, "a source of kind postgres is named by its data_dir"));
        }
        for (of, keys) in KEYS_OF_KINDS.iter().filter(|(of, _)| *of != kind) {
            if let Some((key, line)) = keys.iter().find_map(|key| Some((key, self.line_of(key)?))) {
                return Err(self.wrong(key, line, format!("it is for sources of kind {of}")));
            }
        }
        Ok(())
    }
}

fn parse_store_name(text: &str) -> Result<String, String> {
    text.parse::<SourceName>().map(|name| name.to_string()).map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        format!("store name {shown:?}: use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit")
    })
}

fn parse_kind(text: &str) -> Result<String, String> {
    if KINDS.contains(&text) {
        return Ok(text.to_owned());
    }
    if KINDS_ELSEWHERE.contains(&text) {
        return Err(format!("this build has no source of kind {text}; it has {}", KINDS.join(", ")));
    }
    let shown: String = text.chars().take(80).collect();
    Err(format!("{shown:?} is no kind of source; this build has {}", KINDS.join(", ")))
}

fn parse_source_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("{text:?} is relative; a source's path must be absolute")) }
}

/// A duration longer than nothing.
pub(super) fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

const BYTE_UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

fn parse_bytes(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes if bytes < SPOOL_LIMIT_MIN => Err(format!("{text} is too small; packs need at least 64MiB")),
        bytes => Ok(bytes),
    }
}

/// How many bytes may be read in a second.
fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes if bytes < 1 << 20 => Err(format!("{text} is too little; a snapshot would never end below 1MiB")),
        bytes => Ok(bytes),
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: write an integer and one of KiB, MiB, GiB, TiB, such as 4GiB");
    let (unit, shift) = BYTE_UNITS.iter().find(|(unit, _)| text.ends_with(unit)).ok_or_else(wrong)?;
    let digits = text.strip_suffix(unit).ok_or_else(wrong)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(1 << shift).filter(|bytes| *bytes <= 1 << 53).ok_or_else(wrong)?;
    Ok(bytes)
}

/// Writes a size in the largest unit that divides it.
pub(super) fn format_bytes(bytes: u64) -> String {
    let unit = BYTE_UNITS.iter().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(|| format!("{bytes}"), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

pub(super) fn first_repeated<T: PartialEq>(values: impl Iterator<Item = T> + Clone) -> Option<T> {
    let mut rest = values;
    while let Some(value) = rest.next() {
        if rest.clone().any(|other| other == value) {
            return Some(value);
        }
    }
    None
}

/// Reads `NAME=KIND:PATH`, as `init --source` takes it.
pub fn parse_source_argument(text: &str) -> Result<SourceSettings, String> {
    let form = "write NAME=KIND:/absolute/path, such as ledger=sqlite:/data/ledger.db";
    let (name, rest) = text.split_once('=').ok_or(form)?;
    let (kind, mut path) = rest.split_once(':').ok_or(form)?;
    let mut postgres = None;
    if kind == POSTGRES {
        let mut settings = PostgresSettings::default();
        if let Some((data_dir, query)) = path.split_once('?') {
            path = data_dir;
            settings.server.query(query)?;
        }
        postgres = Some(settings);
    }
    Ok(SourceSettings {
        name: name.parse().map_err(|error: crate::core::id::InvalidName| error.to_string())?,
        kind: parse_kind(kind)?,
        policy: DEFAULT_POLICY.to_owned(),
        path: parse_source_path(path)?,
        busy_timeout: BUSY_TIMEOUT_DEFAULT,
        max_read_lock: MAX_READ_LOCK_DEFAULT,
        expire_after: None,
        reread_every: REREAD_EVERY_DEFAULT,
        postgres,
    })
}

/// A store's name as `NAME=URL` gives it.
pub(super) fn store_name(text: &str) -> Result<String, String> {
    parse_store_name(text)
}

/// Reads a configuration or policy file: a regular file of UTF-8, at most [`FILE_BYTES_MAX`] bytes.
pub fn read_text(file: &Path) -> Result<String, Failure> {
    let failed = |cause: &dyn Display| {
        Failure::new(Code::Configuration, format!("cannot read {}", file.display()))
            .cause(cause)
            .safe("nothing was read or changed")
            .next_step("put a readable text file there, or name another one with --config")
    };
    let bytes = files::read_start(file, FILE_BYTES_MAX + 1).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => failed(&error).next_step(as_its_owner(file)),
        _ => failed(&error),
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(&"it is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| failed(&"it is not UTF-8 text"))
}
