"""What only OpenWrt needs: its configuration, translated."""
