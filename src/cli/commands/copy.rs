//! `recoup copy`.

use super::{findings_text, snapshots_text};
use crate::core::result::{PlanResult, PlanSchema, Problem};
use crate::ops::runs;
use crate::{
    cli::{Context, Help, Job, human},
    config::Settings,
    core::{
        failure::{Code, Failure},
        id::SourceName,
        result::{CopyResult, Outcome},
    },
};
use clap::Args;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "copy",
    description: "Brings every store level: ships what a store lacks from stores that have it, replaces damaged objects \
        by intact ones, and reads back what it wrote. No decryption key is needed. It ships nothing that no \
        trusted signer signed and removes no healthy object; a damaged file of a directory store is first moved \
        to quarantine/ there.\n\
        A store that answers but is empty is founded again, and copy says so: backup does not do that, because \
        an unmounted disk must not be filled.",
    examples: &[
        ("heal and level every store", "recoup copy"),
        ("one source", "recoup copy ledger"),
        ("what would be done", "recoup copy --dry-run"),
    ],
    exit_codes: &[
        (0, "every store is level"),
        (1, "a store could not be brought level"),
        (2, "failed, or something is damaged or missing on every store"),
        (10, "the stores hold no repository"),
        (14, "no store could be reached"),
        (64, "there is no such source"),
        (17, "refused for safety"),
    ],
};

/// How many findings are told one by one.
const FINDINGS_SHOWN: usize = 10;

/// What `copy` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Copy these sources only, also ones that this host does not protect [default: all on the stores]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<SourceName>,
    /// Look at presence and sizes only, without reading every byte to find damage
    #[arg(long)]
    pub presence_only: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let settings = context.settings()?;
    match context.run(async |job| job.until_cancelled(perform(arguments, &settings, job.clone())).await)? {
        Outcome::Planned(plan) => {
            context.output().plan(&plan)?;
            Ok(Code::Done)
        }
        Outcome::Done(result) => {
            context.output().summary(&result, text)?;
            report_trouble(&result, context);
            context.output().notes(&result.notes);
            Ok(result.code())
        }
    }
}

async fn perform(arguments: &Arguments, settings: &Settings, job: Job) -> Result<Outcome<CopyResult>, Failure> {
    let progress = job.progress.as_ref();
    let sources = arguments.sources.clone();
    let result =
        runs::copy_stores(settings, &job.world, sources, arguments.presence_only, arguments.dry_run, progress).await?;
    if !arguments.dry_run {
        return Ok(Outcome::Done(result));
    }
    let steps = steps(&result);
    Ok(Outcome::Planned(PlanResult { schema: PlanSchema, command: "copy".to_owned(), steps }))
}

/// What would be done to each store, and what nothing can be done about.
pub(super) fn steps(result: &CopyResult) -> Vec<String> {
    let mut steps = Vec::new();
    for store in &result.stores {
        let name = &store.store;
        if store.seeded {
            steps.push(format!("seed store {name} again: it has no usable recoup.json"));
        }
        if store.copied_objects > 0 {
            let healed = match store.healed {
                0 => String::new(),
                healed => format!(", {} in place of something damaged", human::count(healed, "object")),
            };
            let objects = human::count(store.copied_objects, "object");
            steps.push(format!("store {name}: bring {objects} ({}){healed}", human::size(store.copied_bytes)));
        }
        for finding in result.findings.iter().filter(|finding| finding.store == *name) {
            let known = finding.cause.clone().unwrap_or_else(|| finding.problem.to_string());
            let cause = match finding.problem {
                Problem::Missing | Problem::Damaged => format!("{known}, and no store that answers has it whole"),
                _ => known,
            };
            steps.push(match &finding.object {
                None if finding.problem == Problem::Behind => {
                    format!("store {name}: leave it behind{}: {cause}", snapshots_text(finding))
                }
                None => format!("leave out store {name}: {cause}"),
                Some(object) => format!("store {name}: leave {object} as it is: {cause}"),
            });
        }
    }
    steps
}

/// What is still wrong.
fn report_trouble(result: &CopyResult, context: &Context) {
    for finding in result.findings.iter().take(FINDINGS_SHOWN) {
        let object = finding.object.as_deref().unwrap_or("the store as a whole");
        let cause = finding.cause.as_ref().map_or_else(String::new, |cause| format!(": {cause}"));
        let snapshots = snapshots_text(finding).replace("  (", " (");
        context
            .output()
            .warning(&format!("store {}: {object} is {}{snapshots}{cause}", finding.store, finding.problem));
    }
    let more = result.findings.len().saturating_sub(FINDINGS_SHOWN);
    if more > 0 {
        context
            .output()
            .warning(&format!("{} more; recoup verify --all names all", human::count(more as u64, "finding")));
    }
    result.next_steps.iter().for_each(|next_step| context.output().next_step(next_step));
}

pub(super) fn text(result: &CopyResult) -> String {
    let mut text = String::new();
    for store in &result.stores {
        let healed =
            if store.healed > 0 { format!(", {} healed", human::count(store.healed, "object")) } else { String::new() };
        text.push_str(&format!(
            "store {}: {} copied ({}){healed}\n",
            store.store,
            human::count(store.copied_objects, "object"),
            human::size(store.copied_bytes),
        ));
    }
    text.push_str(&findings_text(&result.findings));
    text.push_str(&format!("{}\n", result.status));
    text
}
