"""Variator's compression plugins."""

from model.plugin.axis import RatioAxis, with_ratios
from model.plugin.config import PluginConfig
from model.plugin.surgery import available_ratios, current_ratio, plugin_layers, set_ratio, use_ratio

__all__ = [
    "PluginConfig",
    "RatioAxis",
    "available_ratios",
    "current_ratio",
    "plugin_layers",
    "set_ratio",
    "use_ratio",
    "with_ratios",
]
