"""What the documentation site is built with; its pages lie beside."""
