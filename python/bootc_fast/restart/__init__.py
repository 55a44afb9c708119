"""Ways into another deployment around the firmware: soft reboot, kexec."""
