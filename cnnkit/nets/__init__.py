"""From a notation to a network: grammar, arithmetic, modules and named backbones."""
