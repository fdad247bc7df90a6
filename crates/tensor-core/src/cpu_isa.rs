//! A lesser processor, played on this one: own kernels and libtorch keep to its instructions.
//!
//! Own kernels ask [`CpuFeatures::detect`], libtorch and the libraries in it read variables of the
//! environment when they first compute. So the choice is made by the environment, before the
//! program begins: [`CpuIsa::environment`] says how,
//! [`threads::restart_with`](crate::threads::restart_with) starts the program with it.

use std::env;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cpu::CpuFeatures;
use crate::error::{Error, Result};

/// Names the class that own kernels keep to; absent where they take all that is here.
const VARIABLE: &str = "BERT4RS_CPU_ISA";

/// Classes of processors by their instructions, each with those of the ones before it, but that
/// the first with 512 bits have no products of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuIsa {
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// Also products of bytes on 256-bit vectors (AVX-VNNI).
    Avx2Vnni,
    /// 512-bit vectors, without products of bytes.
    Avx512,
    /// Also products of bytes.
    Avx512Vnni,
    /// Also products of BF16.
    Avx512Bf16,
    /// Also matrix units.
    Amx,
}

impl CpuIsa {
    /// All, the least first.
    pub const ALL: [Self; 6] =
        [Self::Avx2, Self::Avx2Vnni, Self::Avx512, Self::Avx512Vnni, Self::Avx512Bf16, Self::Amx];

    /// Its name in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx2 => "avx2",
            Self::Avx2Vnni => "avx2-vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }

    /// The names of all, to choose from.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// What a processor of this class has.
    pub fn features(self) -> CpuFeatures {
        CpuFeatures {
            avx2_fma: true,
            // A processor of the class need not have these 256-bit forms beside wider ones, but
            // one that has them plays no other class by using them.
            avx_vnni: matches!(self, Self::Avx2Vnni | Self::Avx512Bf16 | Self::Amx),
            avx512: self >= Self::Avx512,
            avx512_vnni: self >= Self::Avx512Vnni,
            avx512_bf16: self >= Self::Avx512Bf16,
            amx_bf16: self == Self::Amx,
        }
    }

    /// What a machine with the features `here` lacks of this class, if anything.
    fn lacking(self, here: CpuFeatures) -> Option<&'static str> {
        let wanted = self.features();
        let lacks = [
            (wanted.avx2_fma && !here.avx2_fma, "AVX2 with FMA"),
            (self == Self::Avx2Vnni && !here.avx_vnni, "AVX-VNNI"),
            (wanted.avx512 && !here.avx512, "AVX-512"),
            (wanted.avx512_vnni && !here.avx512_vnni, "AVX-512 VNNI"),
            (wanted.avx512_bf16 && !here.avx512_bf16, "AVX-512 BF16"),
            (wanted.amx_bf16 && !here.amx_bf16, "AMX"),
        ];
        lacks.into_iter().find_map(|(lacks, what)| lacks.then_some(what))
    }

    /// The classes that a machine with the features `here` can play.
    pub fn playable(here: CpuFeatures) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |isa| isa.lacking(here).is_none())
    }

    /// Refuses a class that a machine with the features `here` can't play.
    ///
    /// # Errors
    /// The machine has less.
    pub fn check(self, here: CpuFeatures) -> Result<()> {
        let Some(what) = self.lacking(here) else { return Ok(()) };
        let playable: Vec<&str> = Self::playable(here).map(Self::name).collect();
        let can = match &*playable {
            [] => "it can play none of these classes".to_owned(),
            names => format!("it can play {}", names.join(", ")),
        };
        Err(Error::Unsupported {
            what: format!("a processor of class {}", self.name()),
            reason: format!("this machine has no {what}; {can}"),
        })
    }

    /// The variables that keep own kernels, ATen, oneDNN and MKL to this class.
    pub fn environment(self) -> [(&'static str, &'static str); 4] {
        let [aten, one_dnn, mkl] = match self {
            Self::Avx2 => ["avx2", "AVX2", "AVX2"],
            Self::Avx2Vnni => ["avx2", "AVX2_VNNI", "AVX2"],
            Self::Avx512 => ["avx512", "AVX512_CORE", "AVX512"],
            Self::Avx512Vnni => ["avx512", "AVX512_CORE_VNNI", "AVX512"],
            Self::Avx512Bf16 => ["avx512", "AVX512_CORE_BF16", "AVX512"],
            Self::Amx => ["avx512", "AVX512_CORE_AMX", "AVX512"],
        };
        [
            (VARIABLE, self.name()),
            ("ATEN_CPU_CAPABILITY", aten),
            ("ONEDNN_MAX_CPU_ISA", one_dnn),
            ("MKL_ENABLE_INSTRUCTIONS", mkl),
        ]
    }

    /// The class that this process keeps to, if the environment names one.
    ///
    /// # Errors
    /// It names none that there is, or one that the machine can't play.
    pub fn of_process() -> Result<Option<Self>> {
        let Some(name) = env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let isa: Self =
            name.to_string_lossy().parse().map_err(|error: Error| Error::Unsupported {
                what: format!("{VARIABLE} in the environment"),
                reason: error.to_string(),
            })?;
        isa.check(CpuFeatures::of_machine())?;
        Ok(Some(isa))
    }

    /// Whether this process has been started with [`environment`](Self::environment).
    pub fn is_in_force(self) -> bool {
        self.environment()
            .iter()
            .all(|(name, value)| env::var_os(name).is_some_and(|v| v == *value))
    }
}

impl FromStr for CpuIsa {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| Error::Unsupported {
            what: format!("a processor of class {name}"),
            reason: format!("there is no such class; choose among {}", Self::names()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_plays_itself_and_what_has_less() {
        for isa in CpuIsa::ALL {
            assert_eq!(isa.name().parse::<CpuIsa>().unwrap(), isa);
            let playable: Vec<CpuIsa> = CpuIsa::playable(isa.features()).collect();
            assert_eq!(playable.last(), Some(&isa));
            assert!(playable.contains(&CpuIsa::Avx2));
            for greater in CpuIsa::ALL.into_iter().filter(|other| *other > isa) {
                let error = greater.check(isa.features()).unwrap_err().to_string();
                assert!(
                    error.contains("this machine has no") && error.contains(isa.name()),
                    "{error}"
                );
            }
        }
        let error = "avx3".parse::<CpuIsa>().unwrap_err().to_string();
        assert!(error.contains("avx3") && error.contains("avx512-vnni"), "{error}");
    }

    #[test]
    fn a_limit_takes_away_and_never_adds() {
        let ice_lake = CpuIsa::Avx512Vnni.features();
        assert_eq!(ice_lake.limited_to(CpuIsa::Amx), ice_lake);
        assert_eq!(CpuIsa::Amx.features().limited_to(CpuIsa::Avx512), CpuIsa::Avx512.features());
    }
}
