// A mixin for Vue 2 and Vue 3: the component has the messages of its `sites` in
// `logs`, and how things are in `logState`. All components share a connection.
//
//     export default {
//       mixins: [logstream({ http: 'http://127.0.0.1:3000' })],
//       data: () => ({ sites: ['tst'] }),
//     };
//
//     <p>{{ logState.state }}<span v-if="!logState.complete">: messages may be missing</span></p>
//     <p v-for="log in logs" :key="log.site + log.id">{{ log.message }}</p>

import { watch } from '../logstream.js';

export function logstream(options) {
  return {
    data: () => ({ logs: [], logState: { state: 'connecting', complete: false } }),
    created() {
      const stop = () => {
        this.$_logs?.stop();
        this.$_logs = undefined;
      };
      const show = (sites) => {
        if (!sites?.length) {
          stop();
          this.logs = [];
        } else if (this.$_logs) {
          this.$_logs.show(sites);
        } else {
          // Not in `data`: Vue must not look into it.
          this.$_logs = watch({ ...options, sites }, {
            messages: (list) => { this.logs = list; },
            state: (state) => { this.logState = state; },
          });
        }
      };
      this.$watch('sites', show, { immediate: true, deep: true });
    },
    // Vue 3, then Vue 2. Each knows only its own.
    beforeUnmount() { this.$_logs?.stop(); },
    beforeDestroy() { this.$_logs?.stop(); },
  };
}
