//! `recoup config`.

use crate::ops::open::open_access;
use crate::ops::{open, rescue};
use crate::{
    cli::{Context, Help, arguments::StoreArguments, human},
    config::{self, Access, IdentityInput},
    core::{
        failure::{Code, Failure},
        id::SourceName,
        result::{ConfigResult, ConfigValue},
    },
};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

const EXIT_CODES: &[(u8, &str)] = &[(0, "done"), (78, "there is no configuration, or it is wrong")];

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "config",
    description: "Shows, finds, checks or rescues the configuration. recoup.toml(5) explains every key.",
    examples: &[
        ("every effective value and where it comes from", "recoup config show"),
        ("which file is used", "recoup config path"),
        ("whether it is right", "recoup config check"),
    ],
    exit_codes: EXIT_CODES,
};

/// Help beyond the flags of `show`.
pub const HELP_SHOW: Help = Help {
    command: "config show",
    description: "Prints every effective value, one per line, and where it comes from: a file and line, default, or built \
        in. Secrets are never shown: keys are named by their files, and a command that prints one is only said to be \
        set.",
    examples: &[("what a source is kept by", "recoup config show | grep source.ledger")],
    exit_codes: EXIT_CODES,
};

/// Help beyond the flags of `path`.
pub const HELP_PATH: Help = Help {
    command: "config path",
    description: "Prints the path of the configuration that every other command would use.",
    examples: &[("which file is used", "recoup config path")],
    exit_codes: EXIT_CODES,
};

/// Help beyond the flags of `check`.
pub const HELP_CHECK: Help = Help {
    command: "config check",
    description: "Reads the configuration and the policies it names and says what is wrong with them, by file, line and \
        key. Remarks on posture, such as a single custodian, are no errors.",
    examples: &[("before it is rolled out", "recoup config check --config ./recoup.toml")],
    exit_codes: EXIT_CODES,
};

/// Help beyond the flags of `rescue`.
pub const HELP_RESCUE: Help = Help {
    command: "config rescue",
    description: "Prints the configuration and the policies that were kept, sealed, with the newest snapshot: for a host \
        that was lost with its configuration. They hold no keys. --catalogue also writes the host's catalogue key, \
        which reads names and structure of its snapshots.",
    examples: &[
        (
            "on a bare host, from one store",
            "recoup config rescue --store file:///mnt/a --identity /media/key/custodian.age",
        ),
        (
            "the catalogue key that was lost",
            "recoup config rescue --identity /media/key/custodian.age --catalogue /etc/recoup/catalogue.age",
        ),
    ],
    exit_codes: &[
        (0, "done"),
        (10, "the stores hold no repository"),
        (12, "no usable identity"),
        (14, "no store answered"),
        (15, "stored data is damaged on every store"),
        (16, "there is no snapshot"),
        (17, "nobody trusted signed it"),
    ],
};

/// What `config` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// What to do with it.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Print every effective value and where it comes from
    Show,
    /// Print the path of the configuration in use
    Path,
    /// Check the configuration and its policies
    Check,
    /// Print the configuration that was kept with the newest snapshot
    Rescue(RescueArguments),
}

impl Arguments {
    /// How `config rescue` reaches stores without a configuration, and the identity that it was given.
    pub(super) fn access(&self) -> Option<(&StoreArguments, Option<&Path>)> {
        match &self.action {
            Action::Rescue(arguments) => Some((&arguments.stores, arguments.identity.as_deref())),
            _ => None,
        }
    }
}

/// What `config rescue` is told.
#[derive(Args, Debug)]
pub struct RescueArguments {
    /// Take the one that was kept with this source's newest snapshot [default: with the newest of all]
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// Which stores to read.
    #[command(flatten)]
    pub stores: StoreArguments,
    /// Read snapshots with the identity in this file [default: $RECOUP_IDENTITY_FILE]
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Also write the host's catalogue key to FILE, which must not exist
    #[arg(long, value_name = "FILE")]
    pub catalogue: Option<PathBuf>,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    match &arguments.action {
        Action::Show => show(context)?,
        Action::Path => {
            let file = config::find(context.global().config.as_deref())?.display().to_string();
            let result = ConfigResult { file: Some(file), ..ConfigResult::default() };
            context.output().result(&result, |result| format!("{}\n", result.file.as_deref().unwrap_or_default()))?;
        }
        Action::Check => check(context)?,
        Action::Rescue(arguments) => {
            let access = context.access(&arguments.stores, arguments.identity.as_deref())?;
            let identity = config::find_identity(arguments.identity.as_deref())?;
            let result = context.run(async |job| job.until_cancelled(rescue(arguments, &access, &identity)).await)?;
            context.output().result(&result, |result| result.text.clone().unwrap_or_default())?;
        }
    }
    Ok(Code::Done)
}

fn show(context: &Context) -> Result<(), Failure> {
    let settings = context.settings()?;
    let values = settings.values().into_iter().map(|value| ConfigValue {
        key: value.key,
        value: value.value,
        origin: value.origin.to_string(),
    });
    let result = ConfigResult {
        file: Some(settings.file.display().to_string()),
        values: Some(values.collect()),
        ..ConfigResult::default()
    };
    context.output().result(&result, |result| {
        let row = |value: &ConfigValue| vec![format!("{} = {}", value.key, value.value), format!("# {}", value.origin)];
        human::table(&result.values.iter().flatten().map(row).collect::<Vec<_>>(), &[])
    })
}

fn check(context: &Context) -> Result<(), Failure> {
    let settings = context.settings()?;
    open::check_settings(&settings)?;
    let result = ConfigResult {
        file: Some(settings.file.display().to_string()),
        remarks: Some(settings.remarks()),
        ..ConfigResult::default()
    };
    context.output().result(&result, |result| format!("{}: ok\n", result.file.as_deref().unwrap_or_default()))?;
    context.output().notes(&settings.remarks());
    Ok(())
}

async fn rescue(
    arguments: &RescueArguments,
    access: &Access,
    identity: &IdentityInput,
) -> Result<ConfigResult, Failure> {
    let identities = open::read_identities(identity).await?;
    let repository = open_access(access).await?;
    let rescued = rescue::rescue(&repository, &identities, arguments.source.as_ref()).await?;
    if let Some(file) = &arguments.catalogue {
        rescue::write_catalogue(&rescued, file)?;
    }
    Ok(ConfigResult { snapshot: Some(rescued.snapshot), text: Some(rescued.configuration), ..ConfigResult::default() })
}
