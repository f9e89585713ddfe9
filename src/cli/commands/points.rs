//! `recoup points`.

use super::ListingRemarks;
use crate::{
    cli::{Context, Help, arguments::StoreArguments, human},
    config::Access,
    core::{
        coverage::LogHistory,
        failure::{Code, Failure},
        id::SourceName,
        log::ServerTime,
        result::{Durability, Point, PointsResult, SourcePoints},
        time::Timestamp,
    },
    ops::{open::open_access, points},
};
use clap::Args;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "points",
    description: "Shows the moments that can be brought back, and the holes between them. Every snapshot is a point: the \
        moment at which the read of the source began. Given to restore as --target, a time means the newest \
        point at or before it; TARGET is the earliest that means the point on its line.\n\
        A gap is more time between two points, or since the last one, than the schedule permits with its play, \
        or than may be lost where there is no schedule. In the picture # is a durable point, o one that is not \
        known to be durable, and dots are gaps; it ends now.\n\
        Of a source with a log, every moment of a window can be brought back: from the end of a snapshot to the \
        last commit that is reached without a hole in the segments that the stores show, on each timeline. A GAP \
        names the segments that no store shows; what is on too few stores is named with those that have it.",
    examples: &[
        ("everything", "recoup points"),
        ("one source, for scripts", "recoup points ledger --json"),
        (
            "from one store alone, on a bare host",
            "recoup points --store file:///mnt/a --signers /media/key/custodian.age.signers",
        ),
    ],
    exit_codes: &[
        (0, "shown; there may be gaps"),
        (1, "shown, and a store did not answer, something was refused, or a known snapshot is not shown"),
        (2, "failed, for example because the stores have a newer format"),
        (10, "the stores hold no repository"),
        (14, "no store answered"),
        (17, "refused for safety"),
    ],
};

/// How wide the picture is.
const PICTURE_COLUMNS: usize = 60;

/// What `points` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Show the points of this source only
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// Which stores to read.
    #[command(flatten)]
    pub stores: StoreArguments,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let access = context.access(&arguments.stores, None)?;
    let now = context.world().now();
    let result = context.run(async |job| job.until_cancelled(perform(arguments, &access, now)).await)?;
    context.output().result(&result, text)?;
    let remarks = ListingRemarks {
        warnings: &result.warnings,
        known_missing: result.known_missing,
        nobody_trusted: result.nobody_trusted,
        is_empty: result.sources.is_empty(),
    };
    remarks.tell(&access, context);
    Ok(result.code())
}

async fn perform(arguments: &Arguments, access: &Access, now: Timestamp) -> Result<PointsResult, Failure> {
    let repository = open_access(access).await?;
    points::points(&repository, access.settings(), arguments.source.as_ref(), now).await
}

pub(super) fn text(result: &PointsResult) -> String {
    let texts: Vec<String> = result.sources.iter().map(|source| source_text(source, result.checked_at)).collect();
    texts.join("\n")
}

fn source_text(source: &SourcePoints, now: Timestamp) -> String {
    let gaps = match source.interval_seconds {
        Some(interval) => {
            format!(", {} of more than {}", human::count(source.gaps.len() as u64, "gap"), human::span(interval as f64))
        }
        None => String::new(),
    };
    let mut text = format!(
        "{}: {} in {}{gaps}\n",
        source.source,
        human::count(source.points.len() as u64, "point"),
        human::count(source.windows.len() as u64, "window"),
    );
    text.push_str(&picture(source, now));
    let mut rows = vec![["TARGET", "SEQ", "SINCE", "DURABLE", "STORES", "HOLDS"].map(str::to_owned).to_vec()];
    rows.extend(source.points.iter().map(row));
    text.push_str(&human::table(&rows, &[1]));
    if let Some(gap) = source.gaps.iter().find(|gap| gap.to.is_none()) {
        text.push_str(&format!("gap since {}: {}\n", gap.from, human::span(gap.seconds as f64)));
    }
    source.log.iter().for_each(|history| text.push_str(&log_text(history)));
    text
}

/// A timeline: what of it comes back to the moment, and what does not.
fn log_text(history: &LogHistory) -> String {
    let grew_from = history.grew_from.map_or_else(String::new, |ancestor| {
        format!(", grown out of timeline {} at {}", ancestor.timeline, ancestor.until)
    });
    let mut text = format!("log {}: {}{grew_from}\n", history.history, human::count(history.segments, "segment"));
    for window in &history.windows {
        let over = human::count(window.snapshots, "snapshot");
        text.push_str(&format!("  every moment from {} to {}, over {over}\n", window.from, window.to));
    }
    if history.windows.is_empty() {
        text.push_str("  no moment: no snapshot leads into it\n");
    }
    for gap in &history.gaps {
        let moment = |time: Option<ServerTime>| time.map_or_else(|| "?".to_owned(), |time| time.to_string());
        let count = human::count(gap.segments, "segment");
        let between = format!("between {} and {}", moment(gap.after), moment(gap.before));
        text.push_str(&format!("  GAP {} .. {}: {count} on no store, {between}\n", gap.first, gap.last));
    }
    for thin in &history.thin {
        let (count, stores) = (human::count(thin.files, "file"), thin.stores.join(","));
        text.push_str(&format!("  {} .. {}: {count} on too few stores: {stores}\n", thin.first, thin.last));
    }
    text
}

fn row(point: &Point) -> Vec<String> {
    let since = point.since_previous_seconds.map_or_else(|| "-".to_owned(), human::short);
    let listed = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(",") };
    vec![
        point.at.to_string(),
        point.snapshot.seq.to_string(),
        if point.after_gap { format!("{since} GAP") } else { since },
        match point.durability {
            Durability::Durable => "yes",
            Durability::NotDurable => "NO",
            Durability::Unknown => "?",
        }
        .to_owned(),
        listed(&point.stores),
        listed(&point.holds),
    ]
}

/// From the first point until now: where points are, and where there is a gap.
fn picture(source: &SourcePoints, now: Timestamp) -> String {
    let Some(first) = source.points.first().map(|point| point.at) else { return String::new() };
    let newest = source.points.last().map_or(first, |point| point.at);
    let length = now.max(newest).seconds_since(first).max(1.0);
    let column = |at: Timestamp| {
        let share = at.seconds_since(first) / length;
        ((share * (PICTURE_COLUMNS - 1) as f64) as usize).min(PICTURE_COLUMNS - 1)
    };
    let mut line = vec!['-'; PICTURE_COLUMNS];
    for gap in &source.gaps {
        let to = gap.to.map_or(PICTURE_COLUMNS, column);
        line[column(gap.from)..to].fill('.');
    }
    for point in &source.points {
        let sign = &mut line[column(point.at)];
        // Of several in one column, the one that is durable counts.
        *sign = if point.durability == Durability::Durable || *sign == '#' { '#' } else { 'o' };
    }
    let line: String = line.into_iter().collect();
    format!("  {}\n  {line}\n", human::moment(first))
}
