//! The keys of a listing that nobody wrote, of any length. Pure.

/// A key of a listing that nobody wrote. In order.
pub fn nobodys_key(number: usize) -> String {
    format!("kopia/shop/p{:02x}/{number:08}", number / 8_000)
}

/// The ETag that its object has.
pub fn nobodys_etag(number: usize) -> String {
    format!("{number:032x}")
}

/// The number of the first key that is not before `from`.
pub fn first_key(count: usize, from: &str) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if nobodys_key(middle).as_str() < from { low = middle + 1 } else { high = middle }
    }
    low
}
