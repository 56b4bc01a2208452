//! What to do about a service that nobody offers: the nearest name, or how to offer it.

use paceline_proto::id::NAME_BYTES_MAX;

/// Most names that are compared.
const NAMES_MAX: usize = 1024;

/// A sentence for the caller.
pub(crate) fn suggest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> String {
    match nearest(wanted, names) {
        Some(name) => format!("Did you mean '{name}'?"),
        None => format!(
            "No worker offers '{wanted}'. To offer it, start one on any machine with \
             `--service {wanted}=http://127.0.0.1:PORT` or `--serve {wanted}=DIR`."
        ),
    }
}

/// The name at the least edit distance, if that is at most a third of the length (and at least one).
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if wanted.len() > NAME_BYTES_MAX {
        return None;
    }
    let wanted = wanted.to_ascii_lowercase();
    let limit = (wanted.len() / 3).max(1);
    names
        .take(NAMES_MAX)
        .map(|name| (distance(wanted.as_bytes(), name.as_bytes()), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace) from one to the other: Wagner and Fischer, one row at a time.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, by recursion.
    fn reference(a: &[u8], b: &[u8]) -> usize {
        match (a, b) {
            ([], rest) | (rest, []) => rest.len(),
            ([x, a_rest @ ..], [y, b_rest @ ..]) if x == y => reference(a_rest, b_rest),
            ([_, a_rest @ ..], [_, b_rest @ ..]) => {
                1 + reference(a_rest, b_rest).min(reference(a, b_rest)).min(reference(a_rest, b))
            }
        }
    }

    #[test]
    fn distance_is_the_edit_distance() {
        let words = ["", "a", "ab", "files", "flies", "file", "upload", "uplaod", "notes", "rag-2"];
        for a in words {
            for b in words {
                assert_eq!(distance(a.as_bytes(), b.as_bytes()), reference(a.as_bytes(), b.as_bytes()), "{a} {b}");
            }
        }
    }

    #[test]
    fn the_nearest_name_is_suggested_and_nothing_far_fetched() {
        let names = ["chat", "files", "upload"];
        assert_eq!(nearest("fils", names.into_iter()), Some("files"));
        assert_eq!(nearest("FILES", names.into_iter()), Some("files"));
        assert_eq!(nearest("uplaod", names.into_iter()), Some("upload"));
        assert_eq!(nearest("whisper", names.into_iter()), None);
        assert_eq!(nearest(&"f".repeat(5000), names.into_iter()), None);
        assert!(suggest("whisper", names.into_iter()).contains("--service whisper="));
    }
}
