"""How fast messages cross processes here, beside the bare library and beside others."""
