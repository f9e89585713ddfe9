//! The proof at the end of the story: a drill between two signed records, and the report that quotes them.

use super::{checks::Check, stage::Stage, words::pad};
use crate::{
    config::{IdentityInput, Settings},
    core::{
        failure::Failure,
        id::SourceName,
        result::{DrillResult, ReportResult, Verdict},
    },
    ops::{
        cancel::Cancellation,
        drill::{self, DrillRequest},
        open,
        progress::Progress,
        report::{self, ReportRequest},
    },
    world::World,
};

/// What a source is kept by in the demonstration: promises that can be judged.
pub(super) const LEDGER_POLICY: &str = r#"# What the demonstration promises for its ledger.
rpo = "5m"
rto = "10m"

[schedule]
full = "7d"
incremental = "5m"

[drill]
every = "7d"

[[drill.assert]]
name = "every transfer balances"
query = "select transfer from posting group by transfer having sum(amount_minor) <> 0"
expect = "no rows"

[[drill.assert]]
name = "every balance is the sum of its postings"
query = """
select a.id from account a left join posting p on p.account_id = a.id
group by a.id having a.balance_minor <> coalesce(sum(p.amount_minor), 0)
"""
expect = "no rows"
"#;

/// As `recoup drill` does it: the moment of the disaster is drawn, and on record before anything is fetched.
pub(super) async fn drill(
    world: &World,
    stage: &Stage,
    settings: &Settings,
    source: &SourceName,
    progress: &dyn Progress,
) -> Result<(DrillResult, Check), Failure> {
    let host = open::open_host(settings, world)?;
    let request = DrillRequest {
        source: source.clone(),
        disaster_at: None,
        scratch: None,
        to: None,
        keep: false,
        store: None,
        identity: IdentityInput::File(stage.identity()),
    };
    let drilled = drill::drill(&host, settings, &request, progress, &Cancellation::new()).await?;
    let result = drilled.result;
    let failure = drilled.failure.map_or_else(String::new, |failure| format!(": {failure}"));
    let actual = format!("{}{failure}", result.verdict);
    let check =
        Check::equal("a drill meets the policy", Verdict::FailObjective, Verdict::Pass.to_string(), actual.clone());
    let (lost, back) = (result.rpo_seconds.unwrap_or(0.0), result.rto_seconds.unwrap_or(0.0));
    progress.message(&pad(
        "drill",
        &format!(
            "{actual}: lost {lost:.1} s (5 min permitted), came back in {back:.1} s (10 min permitted);\n\
             the moment of the disaster was drawn at random and signed before the restore began"
        ),
    ));
    Ok((result, check))
}

/// As `recoup report` does it.
pub(super) async fn report(
    world: &World,
    stage: &Stage,
    settings: &Settings,
    source: &SourceName,
    progress: &dyn Progress,
) -> Result<ReportResult, Failure> {
    let request = ReportRequest { source: source.clone(), from: None, to: None, out: stage.report() };
    let made = report::make(settings, world, None, &request).await?;
    progress.message(&pad(
        "report",
        &format!("{}, signed, with the records that it quotes: {}", made.verdict, stage.report_page().display()),
    ));
    Ok(made)
}
