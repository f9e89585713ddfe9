//! `recoup list`.

use super::ListingRemarks;
use crate::ops::open::open_access;
use crate::ops::runs;
use crate::{
    cli::{Context, Help, arguments::StoreArguments, human},
    config::Access,
    core::{
        failure::{Code, Failure},
        id::SourceName,
        result::{Durability, ListResult, SnapshotEntry},
        time::Timestamp,
    },
};
use clap::Args;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "list",
    description: "Lists the snapshots that the stores hold, by source and number. Only what a trusted signer signed is \
        listed. A snapshot is durable when as many stores hold all of it as the policy asks for; one that is \
        not can still be restored. A ? stands where that cannot be known: without a configuration there is no \
        policy, and a store that does not answer may hold it. HOLDS, shown where there are any, says how many \
        keep it from being pruned; recoup hold list names them. READ is when the read of the source began: given \
        to restore as --target it means that snapshot.\n\
        Two snapshots with one number are a fork: they are shown by their full ids.",
    examples: &[
        ("everything, as a table", "recoup list"),
        ("one source, for scripts", "recoup list ledger --json"),
        (
            "from one store alone, on a bare host",
            "recoup list --store file:///mnt/a --signers /media/key/custodian.age.signers",
        ),
    ],
    exit_codes: &[
        (0, "listed"),
        (1, "listed, and a store did not answer, something was refused, or a known snapshot is not shown"),
        (2, "failed, for example because the stores have a newer format"),
        (10, "the stores hold no repository"),
        (14, "no store answered"),
        (17, "refused for safety"),
    ],
};

/// What `list` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// List this source only
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// Which stores to read.
    #[command(flatten)]
    pub stores: StoreArguments,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let access = context.access(&arguments.stores, None)?;
    let result = context.run(async |_job| perform(arguments, &access).await)?;
    let now = context.world().now();
    context.output().result(&result, |result| table(&result.snapshots, now))?;
    context.output().notes(&result.notes);
    let remarks = ListingRemarks {
        warnings: &result.warnings,
        known_missing: result.known_missing,
        nobody_trusted: result.nobody_trusted,
        is_empty: result.snapshots.is_empty(),
    };
    remarks.tell(&access, context);
    Ok(result.code())
}

async fn perform(arguments: &Arguments, access: &Access) -> Result<ListResult, Failure> {
    let repository = open_access(access).await?;
    runs::list_snapshots(&repository, access.settings(), arguments.source.as_ref()).await
}

/// The snapshots in a table; nothing at all where there is none.
pub(super) fn table(snapshots: &[SnapshotEntry], now: Timestamp) -> String {
    if snapshots.is_empty() {
        return String::new();
    }
    let forked = |snapshot: &SnapshotEntry| {
        snapshots
            .iter()
            .any(|other| (&other.source, other.seq) == (&snapshot.source, snapshot.seq) && other.run != snapshot.run)
    };
    let mut rows = vec![
        ["SOURCE", "SEQ", "KIND", "READ", "AGE", "SIZE", "STORED", "STORES", "DURABLE"].map(str::to_owned).to_vec(),
    ];
    // Most repositories have none, and the table is wide.
    let any_held = snapshots.iter().any(|snapshot| !snapshot.holds.is_empty());
    rows[0].extend(any_held.then(|| "HOLDS".to_owned()));
    for snapshot in snapshots {
        let seq = if forked(snapshot) { snapshot.id().to_string() } else { snapshot.seq.to_string() };
        let mut row = vec![
            snapshot.source.to_string(),
            seq,
            snapshot.kind.to_string(),
            snapshot.read_started_at.to_string(),
            human::age(now.seconds_since(snapshot.read_started_at)),
            human::size(snapshot.bytes_raw),
            human::size(snapshot.bytes_stored),
            if snapshot.stores.is_empty() { "-".to_owned() } else { snapshot.stores.join(",") },
            match snapshot.durability {
                Durability::Durable => "yes",
                Durability::NotDurable => "NO",
                Durability::Unknown => "?",
            }
            .to_owned(),
        ];
        let holds = snapshot.holds.len();
        row.extend(any_held.then(|| if holds > 0 { holds.to_string() } else { "-".to_owned() }));
        rows.push(row);
    }
    human::table(&rows, &[1, 4, 5, 6])
}
