//! Medians, percentiles and ratios. All of them answer `None` for an empty input.

/// The middle value; the mean of the two middle ones of an even number.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The smallest value that at least `share` (0 to 1) of all values do not exceed (nearest rank). Sorts `values`.
pub fn percentile(values: &mut [u64], share: f64) -> Option<u64> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    let rank = (share * values.len() as f64).ceil() as usize;
    Some(values[rank.saturating_sub(1).min(last)])
}

/// The median over rounds of `row / base` in the same round: what both rows suffer alike cancels out. Rounds that
/// either row lacks are left out.
pub fn ratio(row: &[Option<f64>], base: &[Option<f64>]) -> Option<f64> {
    let pairs = row.iter().zip(base).filter_map(|(row, base)| Some((((*row)?), (*base)?)));
    let quotients: Vec<f64> = pairs.filter(|(_, base)| *base > 0.0).map(|(row, base)| row / base).collect();
    median(&quotients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn percentile_is_the_nearest_rank() {
        let mut values: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(percentile(&mut values, 0.5), Some(50));
        assert_eq!(percentile(&mut values, 0.99), Some(99));
        assert_eq!(percentile(&mut values, 1.0), Some(100));
        assert_eq!(percentile(&mut values, 0.0), Some(1));
        assert_eq!(percentile(&mut [7], 0.99), Some(7));
        assert_eq!(percentile(&mut [], 0.5), None);
    }

    #[test]
    fn ratio_compares_within_a_round() {
        let row = [Some(2.0), Some(20.0), None, Some(1.0)];
        let base = [Some(1.0), Some(10.0), Some(5.0), None];
        assert_eq!(ratio(&row, &base), Some(2.0));
        assert_eq!(ratio(&row, &[None, None, None, None]), None);
        assert_eq!(ratio(&[Some(1.0)], &[Some(0.0)]), None, "no division by nothing");
    }
}
