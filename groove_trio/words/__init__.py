"""The vocabulary: what is asked, told, decided and refused. Standard library and msgspec only."""
