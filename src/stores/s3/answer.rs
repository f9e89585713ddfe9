//! What a server's answer means, and what to do about it.

use super::{super::error::Trouble, server::Server};
use object_store::client::{HttpError, HttpErrorKind};
use std::error::Error;

/// An answer that is no success, or none at all, by what it says about the next attempt.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
pub(super) struct Answered(pub(super) Trouble);

impl From<Trouble> for HttpError {
    fn from(trouble: Trouble) -> Self {
        // Of this kind object_store draws no conclusions.
        HttpError::new(HttpErrorKind::Unknown, Answered(trouble))
    }
}

/// What an error of object_store says if HTTP is the cause of it.
pub(in super::super) fn trouble_in(error: &(dyn Error + 'static)) -> Option<Trouble> {
    let chain = || {
        std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| -> Option<&(dyn Error + 'static)> {
            (*error).source()
        })
    };
    if let Some(Answered(trouble)) = chain().find_map(|error| error.downcast_ref()) {
        return Some(trouble.clone());
    }
    // A body that broke off, whatever the operating system calls it: the network's trouble, not the object's.
    chain().find(|error| error.is::<HttpError>()).map(|error| Trouble::Passing(innermost(error)))
}

/// The first cause, which says most.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    shown(&innermost.to_string())
}

/// What a request asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Object,
    Bucket,
}

/// An answer that is no success.
pub(super) struct Refusal<'a> {
    pub(super) status: u16,
    /// The bucket's region, where the server names it in a header.
    pub(super) region: Option<&'a str>,
    /// What it says in XML; nothing where a size was asked for.
    pub(super) body: &'a str,
}

impl Refusal<'_> {
    /// What it means; `None` for what object_store understands by itself: no such object, or one that is there.
    pub(super) fn trouble(&self, server: &Server, asked: Asked) -> Option<Trouble> {
        let code = self.element("Code").unwrap_or_default();
        let passing = || Trouble::Passing(self.told("the server is busy or failed"));
        let trouble = match (self.status, code) {
            (404, "NoSuchBucket") => no_bucket(server),
            (404, "") if asked == Asked::Bucket => no_bucket(server),
            (404 | 412 | 304, _) => return None,
            (_, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")
            | (300..400, _) => self.elsewhere(server),
            (400, _) if self.region.is_some_and(|region| region != server.region) => self.elsewhere(server),
            (_, "RequestTimeTooSkewed") => {
                Trouble::Denied(self.told("this host's clock is wrong; set it (timedatectl), or set the server's"))
            }
            (_, "SignatureDoesNotMatch" | "InvalidAccessKeyId" | "InvalidToken" | "ExpiredToken") | (401, _) => {
                Trouble::Denied(self.told(credentials_advice(code)))
            }
            (416, _) => Trouble::Damaged("it ends before the bytes that were asked for".to_owned()),
            (_, "InvalidObjectState") => Trouble::Denied(self.told("it lies in an archive; have it restored there")),
            (403, _) => Trouble::Denied(self.told(&format!(
                "the credentials need s3:ListBucket on bucket {}, s3:GetObject and s3:PutObject on what is in it; prune needs s3:DeleteObject, too",
                server.bucket()
            ))),
            (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull") => Trouble::Full(self.told("there is no room")),
            (501, _) => Trouble::Unsupported(self.told("the server cannot do this")),
            // Nothing was written, or it is not said: somebody else writes there at this moment.
            (409, _) => Trouble::Passing(self.told("somebody else writes it at this moment")),
            (408 | 429 | 500.., _) => passing(),
            (_, "RequestTimeout" | "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody") => passing(),
            _ => Trouble::Gone(self.told("the server does not take the request; see endpoint, region and path_style")),
        };
        Some(trouble)
    }

    fn elsewhere(&self, server: &Server) -> Trouble {
        let named = self.region.or_else(|| self.element("Region")).filter(|region| *region != server.region);
        let Server { region, .. } = server;
        Trouble::Gone(match named {
            Some(named) => self.told(&format!("the bucket is in region {}, not {region}; set region", shown(named))),
            None => self.told(&format!("the bucket is not in region {region} or not at this endpoint; correct them")),
        })
    }

    /// What is the matter, and the server's own words.
    fn told(&self, what: &str) -> String {
        let code = self.element("Code").map_or_else(|| format!("HTTP {}", self.status), shown);
        match self.element("Message") {
            Some(message) => format!("{what} ({code}: {})", shown(message)),
            None => format!("{what} ({code})"),
        }
    }

    fn element(&self, name: &str) -> Option<&str> {
        let (_, after) = self.body.split_once(&format!("<{name}>"))?;
        let (text, _) = after.split_once(&format!("</{name}>"))?;
        Some(text.trim()).filter(|text| !text.is_empty())
    }
}

fn no_bucket(server: &Server) -> Trouble {
    let (bucket, at) = (server.bucket(), server.shown());
    Trouble::Gone(format!("there is no bucket {bucket} at {at}; create it, or correct url and endpoint (NoSuchBucket)"))
}

fn credentials_advice(code: &str) -> &'static str {
    match code {
        "SignatureDoesNotMatch" => "the secret access key is not the one of the access key id; correct it",
        "InvalidAccessKeyId" => "the server does not know the access key id; correct it",
        "InvalidToken" | "ExpiredToken" => "the session token is no longer valid; get new credentials",
        _ => "the server wants other credentials",
    }
}

const SHOWN_CHARS_MAX: usize = 200;

/// A server's words, such as can be printed.
fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::policy::Place, stores::StoreSpec};

    fn server() -> Server {
        let place = Place { region: Some("eu-central-1".to_owned()), provider: None };
        Server::of(&StoreSpec { place, ..StoreSpec::default() }, &"s3://acme-dr".parse().unwrap())
    }

    fn trouble(status: u16, region: Option<&str>, body: &str, asked: Asked) -> Option<Trouble> {
        Refusal { status, region, body }.trouble(&server(), asked)
    }

    fn coded(status: u16, code: &str) -> Option<Trouble> {
        let body =
            format!("<?xml?><Error><Code>{code}</Code><Message>As it\u{7}is.</Message><Key>s3cret</Key></Error>");
        trouble(status, None, &body, Asked::Object)
    }

    #[test]
    fn answers_say_what_to_do() {
        type Expected = fn(&Trouble) -> bool;
        let cases: [(u16, &str, Expected, &str); 16] = [
            (404, "NoSuchBucket", |trouble| matches!(trouble, Trouble::Gone(_)), "no bucket acme-dr at https://s3."),
            (403, "AccessDenied", |trouble| matches!(trouble, Trouble::Denied(_)), "s3:PutObject"),
            (403, "SignatureDoesNotMatch", |trouble| matches!(trouble, Trouble::Denied(_)), "secret access key"),
            (403, "InvalidAccessKeyId", |trouble| matches!(trouble, Trouble::Denied(_)), "access key id"),
            (400, "ExpiredToken", |trouble| matches!(trouble, Trouble::Denied(_)), "session token"),
            (403, "RequestTimeTooSkewed", |trouble| matches!(trouble, Trouble::Denied(_)), "clock"),
            (301, "PermanentRedirect", |trouble| matches!(trouble, Trouble::Gone(_)), "region eu-central-1"),
            (409, "ConditionalRequestConflict", |trouble| matches!(trouble, Trouble::Passing(_)), "somebody else"),
            (503, "SlowDown", |trouble| matches!(trouble, Trouble::Passing(_)), "busy"),
            (500, "InternalError", |trouble| matches!(trouble, Trouble::Passing(_)), "As itis."),
            (400, "BadDigest", |trouble| matches!(trouble, Trouble::Passing(_)), "BadDigest"),
            (416, "InvalidRange", |trouble| matches!(trouble, Trouble::Damaged(_)), "ends before"),
            (501, "NotImplemented", |trouble| matches!(trouble, Trouble::Unsupported(_)), "cannot"),
            (507, "InsufficientStorage", |trouble| matches!(trouble, Trouble::Full(_)), "room"),
            (403, "InvalidObjectState", |trouble| matches!(trouble, Trouble::Denied(_)), "archive"),
            (400, "InvalidArgument", |trouble| matches!(trouble, Trouble::Gone(_)), "InvalidArgument"),
        ];
        for (status, code, expected, why) in cases {
            let trouble = coded(status, code).unwrap();
            let told = format!("{trouble:?}");
            assert!(expected(&trouble) && told.contains(why) && !told.contains("s3cret"), "{status} {code}: {told}");
        }
    }

    #[test]
    fn object_store_understands_the_rest() {
        assert_eq!(coded(404, "NoSuchKey"), None);
        assert_eq!(coded(412, "PreconditionFailed"), None);
        assert_eq!(trouble(404, None, "", Asked::Object), None);
        assert!(matches!(trouble(404, None, "", Asked::Bucket), Some(Trouble::Gone(_))));
    }

    #[test]
    fn the_right_region_is_named() {
        for found in [
            trouble(400, Some("eu-west-1"), "", Asked::Object),
            trouble(301, Some("eu-west-1"), "", Asked::Bucket),
            trouble(400, None, "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region>", Asked::Object),
        ] {
            assert!(
                matches!(&found, Some(Trouble::Gone(why)) if why.contains("in region eu-west-1, not")),
                "{found:?}"
            );
        }
    }
}
