//! Adding and removing recipients: the custodians to whom snapshots are sealed from the next one on.

use super::{Keys, confirmed, read_editable, replace_text};
use crate::{
    config::{RecipientChange, by_hand, edit_recipients},
    core::{
        control::ControlState,
        evidence::{Action, Control},
        failure::{Code, Failure},
        result::{KeysResult, RecipientEntry},
    },
    format::seal::Recipients,
    ops::hold::complete_control,
};

/// What kind of key a recipient is.
pub fn kind_of(recipient: &str) -> &str {
    match recipient.split_whitespace().next() {
        Some(kind) if kind.starts_with("ssh-") => kind,
        _ => "age",
    }
}

/// The one form of a recipient, without a comment.
fn name_of(recipient: &str) -> Result<String, Failure> {
    let parsed = Recipients::parse(&[recipient]).map_err(|error| {
        Failure::new(Code::Usage, "that is not a recipient")
            .cause(error)
            .safe("nothing was changed")
            .next_step("name the custodian's public key: age1..., or an ssh-ed25519 key in quotes")
    })?;
    Ok(parsed.names()[0].clone())
}

/// The position of a recipient in the configuration.
fn position(keys: &Keys<'_>, name: &str) -> Option<usize> {
    let is_it = |text: &String| Recipients::parse(&[text]).is_ok_and(|parsed| parsed.names()[0] == name);
    keys.settings.recipients.iter().position(is_it)
}

fn entry(recipient: &str, state: Option<&ControlState>, configured: bool) -> RecipientEntry {
    RecipientEntry {
        recipient: recipient.to_owned(),
        kind: kind_of(recipient).to_owned(),
        configured: Some(configured),
        sources: Vec::new(),
        proven_at: state.and_then(|state| state.proven_recipients.get(recipient).copied()),
        proven_by: None,
    }
}

/// Adds a recipient to the configuration.
pub async fn add(keys: &Keys<'_>, recipient: &str) -> Result<KeysResult, Failure> {
    let name = name_of(recipient)?;
    if position(keys, &name).is_some() {
        return Err(Failure::new(Code::Usage, format!("{name} is a recipient already"))
            .cause(format!("{} names it", keys.settings.file.display()))
            .safe("nothing was changed")
            .next_step("recoup key list"));
    }
    // A comment tells custodians apart: it stays in the configuration.
    let written = recipient.split_whitespace().collect::<Vec<_>>().join(" ");
    keys.recorded(Action::Key, async || {
        change_configuration(keys, RecipientChange::Add(&written))?;
        let mut result = KeysResult { recipients: vec![entry(&name, None, true)], ..KeysResult::new() };
        result.remarks.extend([
            "the next snapshot of each source is a full, sealed to it too".to_owned(),
            "snapshots that exist stay sealed to those they are sealed to now".to_owned(),
            "after the next backup, have the custodian show that the identity opens it: recoup key prove --identity FILE"
                .to_owned(),
        ]);
        Ok((result, Control::RecipientAdded { recipient: name.clone() }))
    })
    .await
}

/// Takes a recipient out of the configuration.
pub async fn remove(keys: &Keys<'_>, recipient: &str, confirm: Option<&str>) -> Result<KeysResult, Failure> {
    let name = name_of(recipient)?;
    let Some(at) = position(keys, &name) else {
        return Err(Failure::new(Code::Usage, format!("{name} is not a recipient"))
            .cause(format!("{} does not name it", keys.settings.file.display()))
            .safe("nothing was changed")
            .next_step("recoup key list"));
    };
    if keys.settings.recipients.len() == 1 {
        return Err(Failure::new(Code::Refused, format!("{name} is the only recipient"))
            .cause("without it nobody could read the next snapshot")
            .safe("nothing was changed")
            .next_step("add another one first: recoup key add RECIPIENT --reason TEXT"));
    }
    let confirm = confirm.and_then(|text| name_of(text).ok());
    let what = format!("{name} would no longer be a recipient");
    confirmed(confirm.as_deref(), &name, what, "what is captured from then on, its identity does not open")?;
    let state = complete_control(&keys.host.repository, &keys.host.state_dir).await?.state;
    let remaining = keys.host.recipients.names().iter().filter(|other| **other != name);
    let any_proven = remaining.clone().any(|other| state.proven_recipients.contains_key(other));
    keys.recorded(Action::Key, async || {
        change_configuration(keys, RecipientChange::Remove(at))?;
        let mut result = KeysResult { recipients: vec![entry(&name, Some(&state), false)], ..KeysResult::new() };
        result.remarks.extend([
            "snapshots that exist, and what later ones use again of them, stay readable by the removed identity"
                .to_owned(),
            "for a snapshot that uses nothing of them: recoup backup --full".to_owned(),
        ]);
        if !any_proven {
            result.warnings.push(
                "none of the remaining custodians has ever shown that their identity opens a snapshot: \
                 recoup key prove --identity FILE"
                    .to_owned(),
            );
        }
        Ok((result, Control::RecipientRemoved { recipient: name.clone() }))
    })
    .await
}

fn change_configuration(keys: &Keys<'_>, change: RecipientChange<'_>) -> Result<(), Failure> {
    let file = &keys.settings.file;
    let to_do = |failure: Failure| by_hand(keys.settings, change, &failure.cause.unwrap_or_default());
    let text = read_editable(file).map_err(to_do)?;
    let (edited, _) = edit_recipients(keys.settings, &text, change)?;
    replace_text(file, &text, &edited).map_err(to_do)
}
