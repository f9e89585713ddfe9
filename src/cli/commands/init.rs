//! `recoup init`.

use crate::ops::init::{self, InitRequest};
use crate::{
    cli::{Context, Help, Job, usage_failure},
    config::{self, NewConfiguration, SourceSettings, StoreSettings},
    core::{
        failure::{Code, Failure},
        result::InitResult,
    },
    world,
};
use clap::Args;
use std::path::{Path, PathBuf};

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "init",
    description: "Writes the configuration, a signing key, a catalogue key and the list of trusted signers beside the \
        configuration and nowhere else, and founds the repository on every store. All stores are tried before \
        anything is written: if one fails, nothing is written anywhere.\n\
        A store is a directory, file:///absolute/path, or lies in a bucket, s3://BUCKET/PREFIX. An empty directory \
        is accepted and a missing last component is created; a bucket must exist, and nothing may lie below the \
        prefix. The keys that recoup.toml(5) has for a bucket may follow its URL, such as region, endpoint and \
        credentials_env: s3://BUCKET/PREFIX?region=eu-central-1. Credentials come from the environment, never from \
        a URL. An existing configuration, or a store that holds another repository, is refused. The same init after \
        a crash finishes what was begun.\n\
        --new-identity writes an age identity, the signers to trust (FILE.signers) and a copy of recover.sh. \
        Move them off this host: whoever has the identity can read every snapshot, and losing every identity \
        loses every snapshot.",
    examples: &[
        (
            "two stores, one ledger, a new identity on a removable disk",
            "recoup init --store a=file:///mnt/a --store b=file:///mnt/b \\\n      --source ledger=sqlite:/data/ledger.db --new-identity /media/key/custodian.age",
        ),
        (
            "a disk and a bucket, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
            "recoup init --store a=file:///mnt/a --store \"far=s3://acme-dr/ledger?region=eu-central-1\" \\\n      --source ledger=sqlite:/data/ledger.db --new-identity /media/key/custodian.age",
        ),
        (
            "two custodians who have keys already",
            "recoup init --store a=file:///mnt/a --recipient age1... --recipient \"ssh-ed25519 AAAA...\"",
        ),
    ],
    exit_codes: &[
        (0, "done"),
        (14, "a store failed; nothing was written anywhere"),
        (17, "refused: there is a configuration already, or a store holds another repository"),
        (64, "bad usage"),
    ],
};

/// What `init` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Keep snapshots in this store; may be repeated
    #[arg(long = "store", value_name = "NAME=URL", required = true, value_parser = parse_named_store)]
    pub stores: Vec<StoreSettings>,
    /// Protect this database; may be repeated
    #[arg(long = "source", value_name = "NAME=KIND:PATH", value_parser = config::parse_source_argument)]
    pub sources: Vec<SourceSettings>,
    /// Seal snapshots to this public key (age or ssh-ed25519); may be repeated
    #[arg(long = "recipient", value_name = "KEY", required_unless_present = "new_identity")]
    pub recipients: Vec<String>,
    /// Make a new identity in FILE, and seal snapshots to it
    #[arg(long, value_name = "FILE")]
    pub new_identity: Option<PathBuf>,
}

fn parse_named_store(text: &str) -> Result<StoreSettings, String> {
    let store = config::parse_store_argument(text)?;
    if store.name == store.url.as_str() {
        return Err(format!("a store needs a name: write NAME={text}"));
    }
    Ok(store)
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    check(arguments)?;
    let file = config::find_for_init(context.global().config.as_deref());
    let identity = arguments.new_identity.as_deref().map(world::absolute);
    let result = context.run(async |job| perform(arguments, &file, identity.as_deref(), job).await)?;
    // Nobody runs it unattended, and the digest of recover.sh is to be kept.
    context.output().result(&result, text)?;
    context.output().notes(&result.remarks);
    Ok(Code::Done)
}

/// Finds what the values contradict together: they must read back from the file that they are written to.
fn check(arguments: &Arguments) -> Result<(), Failure> {
    let mut recipients = arguments.recipients.clone();
    if recipients.is_empty() {
        recipients.push("the new identity's".to_owned());
    }
    let repository = crate::core::id::RunId::from_random([0; 16]);
    let (stores, sources) = (arguments.stores.clone(), arguments.sources.clone());
    let text = config::render(&NewConfiguration { repository, recipients, stores, sources });
    let Err(failure) = config::parse(&text, Path::new("recoup.toml"), &|_| Ok(None)) else { return Ok(()) };
    // Its file and line are of a text that nobody has seen.
    let message = failure.message.split_once(": ").map_or(failure.message.as_str(), |(_, message)| message);
    Err(Failure { cause: failure.cause, ..usage_failure(message, "recoup init --help") })
}

async fn perform(
    arguments: &Arguments,
    file: &Path,
    new_identity: Option<&Path>,
    job: Job,
) -> Result<InitResult, Failure> {
    let request = InitRequest {
        config: file.to_owned(),
        stores: arguments.stores.clone(),
        sources: arguments.sources.clone(),
        recipients: arguments.recipients.clone(),
        new_identity: new_identity.map(Path::to_owned),
    };
    init::init(&job.world, &request).await
}

fn text(result: &InitResult) -> String {
    let mut text = format!("repository {} on {}\n", result.repository, result.stores.join(", "));
    text.push_str(&format!("configuration: {}\n", result.config));
    if let Some(identity) = &result.identity {
        text.push_str(&format!("identity:      {identity} (move it and {identity}.signers off this host)\n"));
    }
    text.push_str(&format!("recover.sh:    sha256 {} (keep this with the identity)\n", result.recover_sh_sha256));
    text.push_str(&format!("next:          recoup --config {} backup\n", result.config));
    text
}
