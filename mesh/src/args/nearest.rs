//! Which of the right names a wrong one was meant to be.

/// The known name that is nearest to `name`, where it is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, nearest) = known.into_iter().map(|k| (distance(name, k), k)).min()?;
    (distance <= name.len().max(nearest.len()) / 2).then_some(nearest)
}

/// Edits from one to the other, two exchanged neighbours counted once (optimal string alignment), in bytes: the inputs are
/// a key of a small file and a flag.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let first: Vec<usize> = (0..=b.len()).collect();
    let (mut before, mut row) = (first.clone(), first);
    for (i, x) in a.iter().enumerate() {
        let mut next = vec![i + 1; b.len() + 1];
        for (j, y) in b.iter().enumerate() {
            next[j + 1] = (row[j] + usize::from(x != y)).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                next[j + 1] = next[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_near_and_other_words_are_not() {
        for (wrong, right) in [("ulr", Some("url")), ("hearth", Some("health")), ("nam", Some("name")), ("zzzz", None)]
        {
            assert_eq!(nearest(wrong, ["url", "health", "name"]), right, "{wrong}");
        }
        assert_eq!([distance("", "ab"), distance("ab", "ba"), distance("abc", "abc")], [2, 1, 0]);
    }
}
