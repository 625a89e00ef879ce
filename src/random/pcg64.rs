//! NumPy's default bit generator: PCG64 (XSL-RR 128/64), seeded by a `SeedSequence`.
//!
//! Sources: O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms
//! for Random Number Generation" (2014); NumPy 2.4, `random/bit_generator.pyx`,
//! `random/src/pcg64/`.

const MULTIPLIER: u128 = (2_549_297_995_355_413_924 << 64) | 4_865_540_595_714_422_341;

/// The generator's state.
#[derive(Debug, Clone)]
pub struct Pcg64 {
    state: u128,
    increment: u128,
    /// The high half of the last 64-bit draw, kept for the next 32-bit draw.
    kept_half: Option<u32>,
}

impl Pcg64 {
    /// `PCG64(seed)`
    pub fn new(seed: u64) -> Self {
        let [state_high, state_low, stream_high, stream_low] = seed_words(seed).map(u128::from);
        let mut generator = Self {
            state: 0,
            increment: (((stream_high << 64) | stream_low) << 1) | 1,
            kept_half: None,
        };
        generator.step();
        generator.state = generator.state.wrapping_add((state_high << 64) | state_low);
        generator.step();
        generator
    }

    fn step(&mut self) {
        self.state = self
            .state
            .wrapping_mul(MULTIPLIER)
            .wrapping_add(self.increment);
    }

    /// A 64-bit draw.
    pub fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// A 32-bit draw: the low half of a 64-bit draw, then its high half.
    pub fn next_u32(&mut self) -> u32 {
        self.kept_half.take().unwrap_or_else(|| {
            let draw = self.next_u64();
            self.kept_half = Some((draw >> 32) as u32);
            draw as u32
        })
    }
}

/// Words in a `SeedSequence`'s pool.
const POOL: usize = 4;

/// The hash of a `SeedSequence`. Its constant changes with every word.
struct Hash {
    constant: u32,
    multiplier: u32,
}

impl Hash {
    fn word(&mut self, word: u32) -> u32 {
        let word = word ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        let word = word.wrapping_mul(self.constant);
        word ^ (word >> 16)
    }
}

fn mix(x: u32, y: u32) -> u32 {
    let mixed = 0xca01_f9dd_u32
        .wrapping_mul(x)
        .wrapping_sub(0x4973_f715_u32.wrapping_mul(y));
    mixed ^ (mixed >> 16)
}

/// `SeedSequence(seed).generate_state(4, uint64)`
fn seed_words(seed: u64) -> [u64; 4] {
    let mut into_pool = Hash {
        constant: 0x43b0_d7e5,
        multiplier: 0x931e_8875,
    };
    // A seed below 2^32 is one word of entropy; missing words are hashed as 0.
    let entropy = [seed as u32, (seed >> 32) as u32, 0, 0];
    let mut pool = entropy.map(|word| into_pool.word(word));
    for from in 0..POOL {
        for to in (0..POOL).filter(|&to| to != from) {
            pool[to] = mix(pool[to], into_pool.word(pool[from]));
        }
    }
    let mut out_of_pool = Hash {
        constant: 0x8b51_f9dd,
        multiplier: 0x58f3_8ded,
    };
    let halves: [u32; 8] = std::array::from_fn(|index| out_of_pool.word(pool[index % POOL]));
    std::array::from_fn(|index| {
        (u64::from(halves[2 * index + 1]) << 32) | u64::from(halves[2 * index])
    })
}
