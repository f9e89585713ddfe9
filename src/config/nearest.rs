//! Which known word a mistyped one was meant to be.

/// The known word that takes the fewest edits to reach from `word`.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Hostile keys may be long; what is far away stays far away when it is cut.
    let word: String = word.chars().take(64).collect();
    known.into_iter().min_by_key(|candidate| distance(&word, candidate))
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `left` into `right`.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.to_lowercase().chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows = vec![(0..=right.len()).collect::<Vec<usize>>()];
    for (row, from) in left.iter().enumerate() {
        let mut next = vec![row + 1];
        for (column, to) in right.iter().enumerate() {
            let replaced = rows[row][column] + usize::from(from != to);
            let mut best = replaced.min(rows[row][column + 1] + 1).min(next[column] + 1);
            let swapped = row > 0 && column > 0 && *from == right[column - 1] && left[row - 1] == *to;
            if swapped {
                best = best.min(rows[row - 1][column - 1] + 1);
            }
            next.push(best);
        }
        rows.push(next);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_named() {
        let known = ["recipients", "name", "url", "min_stores", "min_regions"];
        for (word, meant) in [
            ("recipient", "recipients"),
            ("nmae", "name"),
            ("URL", "url"),
            ("minstores", "min_stores"),
            ("min_region", "min_regions"),
            ("", "url"),
        ] {
            assert_eq!(nearest(word, known), Some(meant), "{word}");
        }
        assert_eq!(nearest("x", []), None);
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
