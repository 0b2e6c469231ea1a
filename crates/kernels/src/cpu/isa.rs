//! Which instruction set the kernels use.

/// Instruction sets with kernels of their own, from the least to the most capable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, any processor.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// [`Isa::Avx2`] with AVX-VNNI, the dot product of bytes.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// [`Isa::Avx512`] with the dot product of bytes.
    Avx512Vnni,
    /// [`Isa::Avx512Vnni`] with the dot product of bf16.
    Avx512Bf16,
}

/// Vectors that plain Rust is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vectors {
    /// Those that every processor has.
    Portable,
    /// 32 bytes.
    Avx2,
    /// 64 bytes.
    Avx512,
}

impl Isa {
    /// All instruction sets, ascending.
    pub const ALL: [Isa; 6] =
        [Isa::Portable, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Vnni, Isa::Avx512Bf16];

    /// The most capable one this machine supports.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_supported()).unwrap_or(Isa::Portable)
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "AVX2",
            Isa::AvxVnni => "AVX-VNNI",
            Isa::Avx512 => "AVX-512",
            Isa::Avx512Vnni => "AVX-512 VNNI",
            Isa::Avx512Bf16 => "AVX-512 BF16",
        }
    }

    /// Whether this machine can execute it.
    #[cfg(target_arch = "x86_64")]
    pub fn is_supported(self) -> bool {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let avx512_vnni = avx512 && is_x86_feature_detected!("avx512vnni");
        match self {
            Isa::Portable => true,
            Isa::Avx2 => avx2,
            Isa::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512 => avx2 && avx512,
            Isa::Avx512Vnni => avx2 && avx512_vnni,
            Isa::Avx512Bf16 => avx2 && avx512_vnni && is_x86_feature_detected!("avx512bf16"),
        }
    }

    /// Whether this machine can execute it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_supported(self) -> bool {
        self == Isa::Portable
    }

    /// Whether it has a dot product of bytes.
    pub(super) fn has_byte_dot(self) -> bool {
        matches!(self, Isa::AvxVnni | Isa::Avx512Vnni | Isa::Avx512Bf16)
    }

    /// The vectors it has.
    pub(super) fn vectors(self) -> Vectors {
        match self {
            Isa::Portable => Vectors::Portable,
            Isa::Avx2 | Isa::AvxVnni => Vectors::Avx2,
            Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 => Vectors::Avx512,
        }
    }
}

/// Defines `$name` as a dispatcher over [`Isa`] to one inlined body, compiled once per instruction set.
///
/// The body is ordinary Rust over slices; the compiler vectorises it for each set. Rust never contracts `a * b + c`, so every
/// set computes the same bits.
macro_rules! dispatch {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name(isa: $crate::cpu::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            match isa.vectors() {
                // SAFETY: a value of `Isa` reaches kernels only through `Cpu`, whose constructor checked that it is supported.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::isa::Vectors::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::isa::Vectors::Avx512 => unsafe { avx512($($arg),*) },
                _ => body($($arg),*),
            }
        }
    };
}

pub(super) use dispatch;
