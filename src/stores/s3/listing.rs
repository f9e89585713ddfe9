//! Listings with strange names in them.
//!
//! object_store gives up a whole listing over one name that it cannot take, such as `a//b`, and takes `/a` for `a`.
//! Anybody who may write to the bucket could so take the store away. Such a name is given another one, which is no
//! key either and is counted as foreign.

use object_store::path::Path;

/// What the folder that some programs make an object of is called in a listing of itself.
pub(super) const FOLDER_ITSELF: &str = "%25";

/// The listing with every name in it one that object_store takes.
pub(super) fn tamed(listing: &str) -> String {
    let listing = with_names(listing, "Key", |name| !name.ends_with('/') && is_plain(name));
    with_names(&listing, "Prefix", is_plain)
}

fn with_names(listing: &str, element: &str, is_right: impl Fn(&str) -> bool) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let mut pieces = listing.split(open.as_str());
    let mut tame = String::with_capacity(listing.len());
    tame.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (name, rest) = piece.split_at(piece.find(&close).unwrap_or(piece.len()));
        tame.push_str(&open);
        if is_right(name) {
            tame.push_str(name);
        } else {
            tame.push_str(&substitute(name));
        }
        tame.push_str(rest);
    }
    tame
}

/// Whether object_store takes the name for what it is. What is escaped by number need not be one of ours.
fn is_plain(name: &str) -> bool {
    !name.contains("&#") && !name.starts_with('/') && Path::parse(name).is_ok()
}

/// Another name below the same folders; `%` keeps it from being a key.
fn substitute(name: &str) -> String {
    Path::from(format!("{}%", name.replace('&', "%"))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_names_become_foreign_ones() {
        let listing =
            |key: &str| format!("<ListBucketResult><Prefix></Prefix><Contents><Key>{key}</Key><Size>1</Size>");
        for plain in ["a/b", "a b", "ä", "a&amp;b", "RECOVERY.md"] {
            assert_eq!(tamed(&listing(plain)), listing(plain));
        }
        for (strange, tame) in [
            ("a//b", "a/b%25"),
            ("/a", "a%25"),
            ("a/../b", "a/%2E%2E/b%25"),
            ("a/&#10;b", "a/%25#10;b%25"),
            ("ledger/", "ledger/%25"),
            ("&lt;//", "%25lt;/%25"),
        ] {
            let expected = tame.replace('#', "%23");
            assert_eq!(tamed(&listing(strange)), listing(&expected));
            assert!(Path::parse(&expected).is_ok());
        }
        let both = "<Contents><Key>a//b</Key></Contents><Contents><Key>c</Key></Contents>\
            <CommonPrefixes><Prefix>d//</Prefix></CommonPrefixes><CommonPrefixes><Prefix>e/</Prefix></CommonPrefixes>";
        let expected = both.replace("a//b", "a/b%25").replace("d//", "d/%25");
        assert_eq!(tamed(both), expected);
        assert_eq!(tamed("<Key>cut"), "<Key>cut");
    }
}
