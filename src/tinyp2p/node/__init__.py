"""The member at work; `node.py` alone constructs the parts and wires them."""
