//! Quantities of Kubernetes: `500m`, `1Gi`, `1e3`. Pure.
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>

/// In thousandths; `None` where it is no quantity, or a negative one.
pub(crate) fn thousandths(text: &str) -> Option<u128> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || number.len() > 24 {
        return None;
    }
    let (factor, divisor): (u128, u128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        _ => {
            let exponent: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (10_u128.checked_pow(exponent.min(18))?.checked_mul(1_000)?, 1)
        }
    };
    let part = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let all = part(whole)?.checked_mul(factor)?;
    let rest = part(fraction)?.checked_mul(factor)? / scale;
    Some(all.checked_add(rest)?.div_ceil(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("500m", Some(500)),
            ("2", Some(2_000)),
            ("1.5", Some(1_500)),
            (".5", Some(500)),
            ("1Ki", Some(1_024_000)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1e3", Some(1_000_000)),
            ("3860m", Some(3_860)),
            ("100n", Some(1)),
            ("", None),
            ("-1", None),
            ("1x", None),
            ("Gi", None),
            ("9999999999999999999999999", None),
        ] {
            assert_eq!(thousandths(text), expected, "{text}");
        }
    }
}
