//! `recoup key`.

use crate::{
    cli::{Context, Help, Job, arguments::StoreArguments, human, usage_failure},
    config::{self, Access, IdentityInput, Settings},
    core::{
        failure::{Code, Failure},
        id::{SnapshotId, SourceName},
        result::{KeysResult, RecipientEntry, SignerEntry},
    },
    ops::{
        key::{self, Keys, RevokeRequest, SignerRequest},
        open::{self, open_access},
    },
};
use clap::{Args, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "key",
    description: "Administers the two kinds of keys. Recipients are the custodians' public keys: snapshots are sealed to \
        them, and only their identities open content. Signers are the keys of hosts: what a trusted one signed, counts. \
        Every change leaves records on enough stores before and after it is made.",
    examples: &[
        ("who can read, and whose word counts", "recoup key list"),
        ("a custodian shows that their identity works", "recoup key prove --identity /media/key/custodian.age"),
        ("a new custodian", "recoup key add age1... --reason 'Carol takes over from Bob'"),
    ],
    exit_codes: &[(0, "done"), (1, "done, and something deserves a look"), (2, "failed"), (17, "refused for safety")],
};

/// Help beyond the flags of `list`.
pub const HELP_LIST: Help = Help {
    command: "key list",
    description: "Lists the recipients, with the sources whose newest snapshot is sealed to each, and when its identity was \
        last shown to work; and the trusted signers, with what each may sign, and those that were revoked.",
    examples: &[
        ("all", "recoup key list"),
        ("on a bare host", "recoup key list --store file:///mnt/a --signers /media/key/custodian.age.signers"),
    ],
    exit_codes: &[
        (0, "listed"),
        (1, "listed, and too few stores answered, or a revoked signer is still trusted"),
        (14, "no store answered"),
    ],
};

/// Help beyond the flags of `prove`.
pub const HELP_PROVE: Help = Help {
    command: "key prove",
    description: "Opens, for each source, the newest durable snapshot's manifest, and something that only custodians can \
        open: the digests of its blocks and the beginning of a pack. Records which configured recipients the identity was \
        shown to stand for. Several age identities may stand in one file.",
    examples: &[("once a quarter, by each custodian", "recoup key prove --identity /media/key/custodian.age")],
    exit_codes: &[
        (0, "shown and recorded"),
        (2, "shown, and the record is not on enough stores yet"),
        (12, "the identity is of no configured recipient, or does not open a snapshot"),
        (14, "a store is unreachable"),
        (15, "what has to be opened is damaged everywhere"),
        (16, "there is no durable snapshot yet"),
    ],
};

/// Help beyond the flags of `add`.
pub const HELP_ADD: Help = Help {
    command: "key add",
    description: "Adds a recipient to the configuration, in place: comments and layout stay. The next snapshot of each \
        source is then a full, sealed to it too. Snapshots that exist are not sealed again: they stay readable by those \
        they are sealed to.",
    examples: &[("a new custodian", "recoup key add age1... --reason 'Carol takes over from Bob'")],
    exit_codes: &[
        (0, "added"),
        (2, "added, and the record is not on enough stores yet"),
        (11, "another command is changing keys"),
        (14, "too few stores answered: nothing was changed"),
        (17, "the configuration cannot be edited safely; what to write by hand is said"),
        (64, "it is no recipient, or one already; or no reason was given"),
    ],
};

/// Help beyond the flags of `remove`.
pub const HELP_REMOVE: Help = Help {
    command: "key remove",
    description: "Takes a recipient out of the configuration, in place. What exists on the stores, and what later \
        incrementals use again of it, stays readable by the removed identity.",
    examples: &[(
        "a custodian has left",
        "recoup key remove age1... --confirm=age1... --reason 'Bob has left, identity destroyed'",
    )],
    exit_codes: &[
        (0, "removed"),
        (1, "removed, and none of the remaining was ever shown to work"),
        (2, "removed, and the record is not on enough stores yet"),
        (11, "another command is changing keys"),
        (14, "too few stores answered: nothing was changed"),
        (17, "it is the last one, or not confirmed, or the configuration cannot be edited safely"),
        (64, "it is no recipient; or no reason was given"),
    ],
};

/// Help beyond the flags of `signer`.
pub const HELP_SIGNER: Help = Help {
    command: "key signer",
    description: "Adds and revokes signers: the keys of hosts whose snapshots, evidence and other records are trusted.",
    examples: &[
        ("a second host", "recoup key signer add drill_ed25519.pub --role evidence --reason 'drill host'"),
        ("whom there is", "recoup key list"),
    ],
    exit_codes: &[(0, "done"), (1, "done, and something deserves a look"), (2, "failed"), (17, "refused for safety")],
};

/// Help beyond the flags of `signer add`.
pub const HELP_SIGNER_ADD: Help = Help {
    command: "key signer add",
    description: "Adds a key to this host's file of signers, and prints the lines that have to stand in those of the \
        custodians and of other hosts, too. Without --source it may sign for every source, without --role everything, as \
        init lets the first host.",
    examples: &[
        (
            "a host that drills and reports",
            "recoup key signer add drill_ed25519.pub --role evidence --role report --reason R",
        ),
        ("a host of its own for one source", "recoup key signer add wallet_ed25519.pub --source wallet --reason R"),
    ],
    exit_codes: &[
        (0, "added"),
        (2, "added, and the record is not on enough stores yet"),
        (11, "another command is changing keys"),
        (14, "too few stores answered: nothing was changed"),
        (17, "it was revoked, or the file of signers cannot be edited safely"),
        (64, "the file holds no Ed25519 public key, or a trusted one; or no reason was given"),
    ],
};

/// Help beyond the flags of `signer revoke`.
pub const HELP_SIGNER_REVOKE: Help = Help {
    command: "key signer revoke",
    description: "Revokes a signer. This host, whose own key must be another trusted one, vouches for what the signer has \
        signed so far, byte for byte, on enough stores; then its lines leave the file of signers. What it signs later, or \
        claims to have signed earlier, is refused from then on. Evidence that had not left its host by then never does: \
        once that host has another key, it begins a new chain, and says where the rest is kept.\nWithout --confirm it is said what would be vouched for: \
        compare that with what is known, and leave out forgeries with --except. If it is cut short, the same command goes \
        on where it was. That holds, too, where this host has lost its state directory meanwhile, and where another host \
        has revoked the signer: the stores say what was vouched for, and what it signed since is named and not vouched for.",
    examples: &[
        ("what would be vouched for", "recoup key signer revoke SHA256:... --reason 'host stolen'"),
        (
            "the host was taken over, and snapshot 43 is none of ours",
            "recoup key signer revoke SHA256:... --confirm=SHA256:... --except 0000000043-abcdefghijklmnop --reason 'host stolen'",
        ),
    ],
    exit_codes: &[
        (0, "revoked"),
        (
            1,
            "revoked, and a store has not got the vouch yet; or what the signer signed after an earlier revocation is trusted no more",
        ),
        (2, "revoked, and the record is not on enough stores yet"),
        (11, "another command is changing keys"),
        (14, "too few stores answered; where this host trusted the signer, it still does"),
        (16, "there is no snapshot of it to leave out"),
        (17, "not confirmed; this host signs with it; or this host's own key is not trusted with keys"),
        (64, "it is no trusted signer, or its revocation is complete; or no reason was given"),
    ],
};

/// What `key` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// What to do with keys.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List recipients and signers
    List(ListArguments),
    /// Show that a custodian's identity opens what is sealed to it
    Prove(ProveArguments),
    /// Add a recipient
    Add(AddArguments),
    /// Remove a recipient
    Remove(RemoveArguments),
    /// Add or revoke a signer
    Signer(SignerArguments),
}

/// What `key list` is told.
#[derive(Args, Debug)]
pub struct ListArguments {
    /// Which stores to read.
    #[command(flatten)]
    pub stores: StoreArguments,
}

/// What `key prove` is told.
#[derive(Args, Debug)]
pub struct ProveArguments {
    /// Prove the identity in this file [default: $RECOUP_IDENTITY_FILE]
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// What `key add` is told.
#[derive(Args, Debug)]
pub struct AddArguments {
    /// Add this public key: age1..., or an SSH key in quotes
    #[arg(value_name = "RECIPIENT")]
    pub recipient: String,
}

/// What `key remove` is told.
#[derive(Args, Debug)]
pub struct RemoveArguments {
    /// Remove this public key
    #[arg(value_name = "RECIPIENT")]
    pub recipient: String,
    /// Do it; name the recipient again
    #[arg(long, value_name = "RECIPIENT")]
    pub confirm: Option<String>,
}

/// What `key signer` is told.
#[derive(Args, Debug)]
pub struct SignerArguments {
    /// What to do with signers.
    #[command(subcommand)]
    pub action: SignerAction,
}

/// What to do with signers.
#[derive(Debug, Subcommand)]
pub enum SignerAction {
    /// Add a signer
    Add(SignerAddArguments),
    /// Revoke a signer, and vouch for what it has signed
    Revoke(RevokeArguments),
}

/// What `key signer add` is told.
#[derive(Args, Debug)]
pub struct SignerAddArguments {
    /// Add the public key in this file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Let it sign for this source; may be repeated [default: every source]
    #[arg(long = "source", value_name = "NAME")]
    pub sources: Vec<SourceName>,
    /// Let it sign this: inventory, log, evidence, prune, keys or report; may be repeated [default: everything]
    #[arg(long = "role", value_name = "ROLE", hide_possible_values = true)]
    pub roles: Vec<Role>,
}

/// What a signer may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Snapshots
    Inventory,
    /// Log segments
    Log,
    /// The control log
    Evidence,
    /// What prune deletes
    Prune,
    /// Vouches
    Keys,
    /// Reports
    Report,
}

/// What `key signer revoke` is told.
#[derive(Args, Debug)]
pub struct RevokeArguments {
    /// Revoke the signer with this fingerprint, as `key list` shows it
    #[arg(value_name = "FINGERPRINT")]
    pub fingerprint: String,
    /// Do it; name the fingerprint again
    #[arg(long, value_name = "FINGERPRINT")]
    pub confirm: Option<String>,
    /// Do not vouch for this snapshot, named by its full id; may be repeated
    #[arg(long = "except", value_name = "SNAPSHOT")]
    pub except: Vec<SnapshotId>,
}

impl Arguments {
    /// How `key list` reaches stores without a configuration.
    pub(super) fn access(&self) -> Option<(&StoreArguments, Option<&Path>)> {
        match &self.action {
            Action::List(arguments) => Some((&arguments.stores, None)),
            _ => None,
        }
    }
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let action = match &arguments.action {
        Action::List(arguments) => {
            let access = context.access(&arguments.stores, None)?;
            let result = context.run(async |job| job.until_cancelled(list(&access)).await)?;
            context.output().result(&result, list_text)?;
            return Ok(tell(&result, context));
        }
        Action::Prove(arguments) => {
            let identity = config::find_identity(arguments.identity.as_deref())?;
            let settings = context.settings()?;
            let result = context.run(async |job| prove(&identity, &settings, job).await)?;
            context.output().summary(&result, |result| result.recipients.iter().map(proven_text).collect())?;
            return Ok(tell(&result, context));
        }
        changing => changing,
    };
    if context.global().reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
        let next_step = "add --reason TEXT: it goes into the evidence record";
        return Err(usage_failure("a change of keys needs a reason", next_step));
    }
    let settings = context.settings()?;
    let result = context.run(async |job| change(action, &settings, job).await)?;
    match action {
        // These lines are what the command is for.
        Action::Signer(SignerArguments { action: SignerAction::Add(_) }) => {
            context
                .output()
                .result(&result, |result| result.signers_lines.iter().map(|line| format!("{line}\n")).collect())?;
        }
        _ => context.output().summary(&result, changed_text)?,
    }
    Ok(tell(&result, context))
}

fn tell(result: &KeysResult, context: &Context) -> Code {
    let (remarks, notes): (Vec<String>, Vec<String>) =
        result.notes.iter().cloned().partition(|note| result.remarks.contains(note));
    context.output().notes(&notes);
    context.output().remarks(&remarks);
    result.warnings.iter().for_each(|warning| context.output().warning(warning));
    if result.warnings.is_empty() { Code::Done } else { Code::Warning }
}

async fn list(access: &Access) -> Result<KeysResult, Failure> {
    let repository = open_access(access).await?;
    let settings = access.settings();
    let own = settings.and_then(|settings| open::catalogue_identities(settings).ok().flatten());
    let identities: Vec<_> = own.iter().collect();
    key::list(&repository, settings, &identities).await
}

async fn prove(identity: &IdentityInput, settings: &Settings, job: Job) -> Result<KeysResult, Failure> {
    let identities = open::read_identities(identity).await?;
    let host = open::open_host(settings, &job.world)?;
    let keys = Keys::open(&host, settings)?;
    key::prove(&keys, identities).await
}

async fn change(action: &Action, settings: &Settings, job: Job) -> Result<KeysResult, Failure> {
    let host = open::open_host(settings, &job.world)?;
    let keys = Keys::open(&host, settings)?;
    match action {
        Action::Add(arguments) => key::add(&keys, &arguments.recipient).await,
        Action::Remove(arguments) => key::remove(&keys, &arguments.recipient, arguments.confirm.as_deref()).await,
        Action::Signer(SignerArguments { action: SignerAction::Add(arguments) }) => {
            let request = SignerRequest {
                file: arguments.file.clone(),
                sources: arguments.sources.iter().cloned().collect(),
                roles: arguments.roles.iter().map(|role| role_of(*role)).collect(),
            };
            key::add_signer(&keys, &request).await
        }
        Action::Signer(SignerArguments { action: SignerAction::Revoke(arguments) }) => {
            let request = RevokeRequest {
                signer: arguments.fingerprint.clone(),
                confirm: arguments.confirm.clone(),
                except: arguments.except.iter().copied().collect(),
            };
            key::revoke(&keys, &request).await
        }
        Action::List(_) | Action::Prove(_) => Err(Failure::internal("this changes no key")),
    }
}

fn role_of(role: Role) -> key::Role {
    match role {
        Role::Inventory => key::Role::Inventory,
        Role::Log => key::Role::Log,
        Role::Evidence => key::Role::Evidence,
        Role::Prune => key::Role::Prune,
        Role::Keys => key::Role::Keys,
        Role::Report => key::Role::Report,
    }
}

fn names_of(sources: &[SourceName]) -> String {
    let names: Vec<&str> = sources.iter().map(SourceName::as_str).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(",") }
}

fn proven_text(entry: &RecipientEntry) -> String {
    format!("{}: its identity opens the newest snapshot of {}\n", entry.recipient, names_of(&entry.sources))
}

fn changed_text(result: &KeysResult) -> String {
    let mut text = String::new();
    for entry in &result.recipients {
        let what = if entry.configured == Some(true) { "is a recipient now" } else { "is no recipient any more" };
        text.push_str(&format!("{} {what}\n", entry.recipient));
    }
    for entry in &result.signers {
        text.push_str(&format!("{} is revoked\n", entry.fingerprint));
    }
    if let Some(vouched) = &result.vouched {
        for of in &vouched.sources {
            let snapshots = human::count(of.snapshots, "snapshot");
            text.push_str(&format!("  still trusted: {snapshots} of {}, the newest is {}\n", of.source, of.newest));
        }
        text.push_str(&format!("  still trusted: {}\n", human::count(vouched.evidence_records, "evidence record")));
    }
    text
}

fn list_text(result: &KeysResult) -> String {
    let mut rows = vec![["RECIPIENT", "CONFIGURED", "NEWEST OF", "PROVEN", "BY"].map(str::to_owned).to_vec()];
    rows.extend(result.recipients.iter().map(|entry| {
        let configured = match entry.configured {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "?",
        };
        vec![
            entry.recipient.clone(),
            configured.to_owned(),
            names_of(&entry.sources),
            entry.proven_at.map_or_else(|| "never".to_owned(), human::moment),
            entry.proven_by.clone().unwrap_or_else(|| if entry.proven_at.is_some() { "?" } else { "-" }.to_owned()),
        ]
    }));
    let mut text = human::table(&rows, &[]);
    let mut rows = vec![["SIGNER", "TRUSTED", "AS", "WITH"].map(str::to_owned).to_vec()];
    rows.extend(result.signers.iter().map(signer_row));
    text.push('\n');
    text.push_str(&human::table(&rows, &[]));
    text
}

fn signer_row(entry: &SignerEntry) -> Vec<String> {
    let trusted = match (entry.trusted, entry.revoked) {
        (true, false) => "yes",
        (true, true) => "yes, though REVOKED",
        (false, _) => "revoked",
    };
    let list = |texts: &[String], none: &str| if texts.is_empty() { none.to_owned() } else { texts.join(",") };
    let roles: Vec<String> =
        entry.namespaces.iter().map(|name| name.strip_prefix("recoup-").unwrap_or(name).to_owned()).collect();
    let own = if entry.this_host { " (this host)" } else { "" };
    let everything = if entry.trusted { "everything" } else { "-" };
    vec![
        format!("{}{own}", entry.fingerprint),
        trusted.to_owned(),
        list(&entry.principals, "-"),
        list(&roles, everything),
    ]
}
