//! Kubernetes quantities (`100m`, `256Mi`): compared, and written in the canonical form in which the
//! API server keeps them. After `k8s.io/apimachinery/pkg/api/resource`.

/// A quantity in billionths, the finest that Kubernetes knows, and the kind of suffix it had.
#[derive(Clone, Copy, Debug, Eq)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

const DECIMAL: [(&str, i128); 10] = [
    ("E", 1_000_000_000_000_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000_000_000),
    ("T", 1_000_000_000_000_000_000_000),
    ("G", 1_000_000_000_000_000_000),
    ("M", 1_000_000_000_000_000),
    ("k", 1_000_000_000_000),
    ("", 1_000_000_000),
    ("m", 1_000_000),
    ("u", 1_000),
    ("n", 1),
];
const BINARY: [(&str, i128); 6] = [
    ("Ei", 1_000_000_000 << 60),
    ("Pi", 1_000_000_000 << 50),
    ("Ti", 1_000_000_000 << 40),
    ("Gi", 1_000_000_000 << 30),
    ("Mi", 1_000_000_000 << 20),
    ("Ki", 1_000_000_000 << 10),
];
const ONE: i128 = 1_000_000_000;

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Quantity {
    /// Reads a quantity; fractions finer than a billionth are rounded up. `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number_end = text
            .char_indices()
            .find(|(index, c)| {
                !(c.is_ascii_digit() || *c == '.' || (*index == 0 && (*c == '+' || *c == '-')))
            })
            .map_or(text.len(), |(index, _)| index);
        let (number, suffix) = text.split_at(number_end);
        let (scale, format) = if let Some((_, scale)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
            (*scale, Format::Decimal)
        } else if let Some((_, scale)) = BINARY.iter().find(|(name, _)| *name == suffix) {
            (*scale, Format::Binary)
        } else {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            // 1e-9 is the finest.
            let scale =
                if exponent < 0 { Some(ONE / power).filter(|n| *n > 0) } else { ONE.checked_mul(power) };
            (scale?, Format::Exponent)
        };
        let (negative, digits) = match number.as_bytes().first()? {
            b'-' => (true, &number[1..]),
            b'+' => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || fraction.len() > 18 {
            return None;
        }
        let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
        let divisor = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        let part = parse(fraction)?.checked_mul(scale)?;
        let nanos =
            parse(whole)?.checked_mul(scale)?.checked_add(part.checked_add(divisor - 1)? / divisor)?;
        Some(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Whether it is below zero, which no resource can be.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The canonical form: the largest suffix of its kind that leaves a whole number.
    #[must_use]
    pub fn canonical(self) -> String {
        if self.nanos == 0 {
            return "0".into();
        }
        if self.format == Format::Binary
            && let Some((suffix, scale)) = BINARY.iter().find(|(_, scale)| self.nanos % scale == 0)
        {
            return format!("{}{suffix}", self.nanos / scale);
        }
        if self.format == Format::Exponent && self.nanos % ONE == 0 {
            let mut number = self.nanos / ONE;
            let mut exponent = 0;
            while number % 1000 == 0 {
                number /= 1000;
                exponent += 3;
            }
            return if exponent == 0 { number.to_string() } else { format!("{number}e{exponent}") };
        }
        let (suffix, scale) =
            DECIMAL.iter().find(|(_, scale)| self.nanos % scale == 0).copied().unwrap_or(("n", 1));
        format!("{}{suffix}", self.nanos / scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (given, canonical) in [
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("100m", "100m"),
            ("1500m", "1500m"),
            ("1024Mi", "1Gi"),
            ("256Mi", "256Mi"),
            ("0.5Gi", "512Mi"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("0", "0"),
            ("-1", "-1"),
            ("+2", "2"),
            (".5", "500m"),
            ("1.", "1"),
            ("128974848", "128974848"),
            ("1000Ki", "1000Ki"),
            ("2k", "2k"),
            ("1E", "1E"),
            ("5e-1", "500m"),
        ] {
            assert_eq!(
                Quantity::parse(given).map(Quantity::canonical).as_deref(),
                Some(canonical),
                "{given}"
            );
        }
        for bad in ["", "abc", "1x", "1.2.3", "-", ".", "1 Mi", "1mi", "e3", "1e", "1e-10", "--1"] {
            assert_eq!(Quantity::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn order_is_by_value() {
        let parse = |text| Quantity::parse(text).unwrap();
        assert!(parse("100m") < parse("1"));
        assert!(parse("1Gi") > parse("1G"));
        assert_eq!(parse("1024Mi"), parse("1Gi"));
    }

    #[test]
    fn what_is_below_zero() {
        let negative = |text| Quantity::parse(text).unwrap().is_negative();
        assert!(negative("-1") && !negative("0") && !negative("1n"));
    }
}
