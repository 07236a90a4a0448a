"""Configurations: the schema (typed, frozen, the only place with defaults) and reading them from files."""

from detection.config.loading import (
    config_folder,
    config_from_dict,
    config_help,
    config_to_dict,
    dump_config,
    find_config,
    from_dict,
    load,
    load_config,
    override,
)
from detection.config.schema import (
    AnchorConfig,
    Config,
    DataConfig,
    Fraction,
    ModelConfig,
    Name,
    PretrainConfig,
    RoIConfig,
    RPNConfig,
    SolverConfig,
)

__all__ = [
    "AnchorConfig",
    "Config",
    "DataConfig",
    "Fraction",
    "ModelConfig",
    "Name",
    "PretrainConfig",
    "RPNConfig",
    "RoIConfig",
    "SolverConfig",
    "config_folder",
    "config_from_dict",
    "config_help",
    "config_to_dict",
    "dump_config",
    "find_config",
    "from_dict",
    "load",
    "load_config",
    "override",
]
